"""Export to Weights & Biases without its service: offline runs in a folder, for `wandb sync` later."""

from __future__ import annotations

from pathlib import Path

from harness.errors import EnvironmentFault
from harness.export.numbers import RunNumbers

INSTALL = "pip install 'dynamometer[wandb]'"


def write_offline(numbers: RunNumbers, folder: Path, *, with_texts: bool) -> str:
    """Where the offline runs are, one for each trial. Raises EnvironmentFault."""
    try:
        import wandb
    except ImportError as error:
        raise EnvironmentFault(f"--to wandb-offline needs the wandb package: {INSTALL}") from error
    settings = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, save_code=False, x_disable_stats=True,
        x_disable_meta=True, x_disable_machine_info=True,
    )  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for trial in numbers.trials:
            run = wandb.init(
                mode="offline", dir=str(folder), project=numbers.scenario, group=numbers.run, name=trial.trial_id,
                config={**trial.axes, **{f"dyno.{name}": value for name, value in numbers.facts.items()}},
                tags=[f"{name}: {value}"[:64] for name, value in trial.facts.items()], settings=settings,
            )  # fmt: skip
            for name, metric in trial.metrics.items():
                ends = {"": metric.value, ".low": metric.low, ".high": metric.high}
                run.summary.update({f"{name}{end}": value for end, value in ends.items() if value is not None})
            if with_texts and trial.answers is not None:
                run.save(str(trial.answers), base_path=str(trial.answers.parent), policy="now")
            run.finish()
    except (wandb.Error, OSError) as error:
        raise EnvironmentFault(f"{folder}: wandb wrote no run there ({str(error)[:300]}); check --out") from error
    return f"{len(numbers.trials)} offline runs; send them with: wandb sync {folder}/wandb/offline-run-*"
