"""The reader of run folders; it takes no lock, so a run can be read while it is being written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.nearest import did_you_mean
from harness.errors import EnvironmentFault, StaleScenario, UsageError
from harness.measure.machine.calibration import Calibration, MachineOfRun
from harness.records import RequestRecord, Trial
from harness.scenario.resolve import ResolvedScenario, resolved_from_dict
from harness.store.blocks import without_void_block
from harness.store.codec import DecodeError, from_json
from harness.store.formats import RunManifest, check_format
from harness.store.layout import RunLayout
from harness.store.old_runs import upgraded
from harness.store.one_class import check_class
from harness.store.requests_table import read_table, whole

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A stored run. `notes` state what could not be read."""

    root: Path
    manifest: RunManifest
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = ()

    @property
    def layout(self) -> RunLayout:
        """The paths of its files."""
        return RunLayout(self.root)

    @property
    def resolved(self) -> ResolvedScenario:
        """The scenario that was measured. Raises StaleScenario where this version no longer accepts it."""
        try:
            return resolved_from_dict(self.manifest.scenario)
        except StaleScenario as error:
            raise StaleScenario(f"{self.layout.run_json}: {error}") from error


def read_run(root: Path) -> Run:
    """The run in folder `root`. A torn last line of trials.jsonl is left out, with a note.

    Raises UsageError when there is no run, EnvironmentFault when it is damaged, of a newer format, or holds trials of
    two machine classes.
    """
    manifest = read_manifest(root)
    path = RunLayout(root).trials_jsonl
    data = path.read_bytes() if path.exists() else b""
    lines = whole_lines(data)
    unranked = {each.machine_id: each.why for each in manifest.machines if each.ranked != "ranked"}
    stored = (marked(_trial(line, f"{path}:{number}"), unranked) for number, line in enumerate(lines, start=1))
    trials = without_void_block(stored)
    notes: tuple[str, ...] = ()
    if data and not data.endswith(b"\n"):
        notes = (f"{path}:{len(lines) + 1}: the last line is torn (the writer was killed); that trial is left out",)
    check_class(root, manifest, trials)
    return Run(root=root, manifest=manifest, trials=trials, notes=notes)


def marked(trial: Trial, unranked: Mapping[str, str]) -> Trial:
    """The trial with the reason why its machine's numbers are not ranked, by machine; '' where they are."""
    why = unranked.get(trial.machine, "")
    return trial if trial.unranked == why else replace(trial, unranked=why)


def read_calibrations(root: Path) -> tuple[Calibration, ...]:
    """The launches of the calibration candidate, as they were stored; a torn last line is left out. Raises
    EnvironmentFault where it is damaged."""
    path = RunLayout(root).calibration_jsonl
    lines = whole_lines(path.read_bytes()) if path.exists() else []
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            check_format(fields.pop("format", None) if isinstance(fields, dict) else None, f"{path}:{number}")
            found.append(from_json(Calibration, fields, f"{path}:{number}"))
        except ValueError as error:
            raise EnvironmentFault(f"{path}:{number}: damaged ({error}); cut this line out and read again") from error
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class LastCalibration:
    """How a machine stood in the newest run in which it was calibrated."""

    run: str
    machine: MachineOfRun


def last_calibrations(results_root: Path) -> dict[str, LastCalibration]:
    """Machine -> its last calibration, of every run below `results_root` that can be read."""
    found: dict[str, LastCalibration] = {}
    for root in runs_below(results_root):
        try:
            machines = read_manifest(root).machines
        except EnvironmentFault:
            continue  # damaged, or of a newer version: `dyno report` explains it
        found |= {each.machine_id: LastCalibration(run=root.name, machine=each) for each in machines}
    return found


def read_manifest(root: Path) -> RunManifest:
    """run.json of the run in `root`. Raises UsageError or EnvironmentFault."""
    path = RunLayout(root).run_json
    if not path.is_file():
        raise UsageError(f"{root}: not a run folder (no run.json); name a folder below results/local, or 'latest'")
    try:
        fields: Any = json.loads(path.read_text(encoding="utf-8"))
        check_format(fields.get("format") if isinstance(fields, dict) else None, str(path))
        return from_json(RunManifest, fields, str(path))
    except (ValueError, UnicodeDecodeError) as error:
        raise EnvironmentFault(f"{path}: damaged ({error}); restore it or run the scenario again") from error


def read_requests(root: Path, trial_id: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The raw records of a trial as a table, warm-up included (column is_warmup), all `columns` or those named: a
    million requests are 1.4 GB whole, their times alone 0.1 GB. Raises UsageError when absent, EnvironmentFault when
    damaged."""
    import pandas as pd

    path = _requests_path(root, trial_id)
    with whole(path):
        return pd.read_parquet(path, columns=None if columns is None else list(columns))


def read_request_records(root: Path, trial_id: str) -> tuple[RequestRecord, ...]:
    """The raw records of a trial as records. Raises UsageError when absent, EnvironmentFault when damaged."""
    return read_table(_requests_path(root, trial_id))


def read_telemetry(root: Path, trial_id: str) -> pd.DataFrame | None:
    """What the machine did while a trial was loaded (t_ns, cpu_frac_*, memory_mib, gpu_*, energy_j; NaN where it could
    not be read); None when nothing was stored: the trial ended before its load, or an earlier version wrote the run.
    Raises EnvironmentFault when damaged."""
    import pandas as pd

    path = RunLayout(root).telemetry(trial_id)
    with whole(path):
        return pd.read_parquet(path) if path.is_file() else None


def read_engine_metrics(root: Path, trial_id: str) -> pd.DataFrame | None:
    """What the server published about itself while a trial was loaded (t_ns, took_ms, then those of
    engines/metrics_page.py that it has; NaN where one answer lacks it); None when nothing was stored: it publishes
    nothing, or nobody asked. Raises EnvironmentFault when damaged."""
    import pandas as pd

    path = RunLayout(root).engine_metrics(trial_id)
    with whole(path):
        return pd.read_parquet(path) if path.is_file() else None


def find_run(results_root: Path, ref: str | None) -> Path:
    """The run folder meant by `ref`: None or 'latest' (the newest of all), a scenario's name (its newest), a run
    folder's own name, or a path. Raises UsageError that states what there is."""
    runs = runs_below(results_root)
    if ref is None or ref == "latest":
        if not runs:
            raise UsageError(f"{results_root}: no run here yet; start one with: dyno tune scenarios/quickstart.yaml")
        return runs[-1]
    if RunLayout(Path(ref)).run_json.is_file():
        return Path(ref)
    named = [run for run in runs if ref in (run.parent.name, run.name)]
    if not named:
        raise UsageError(
            f"run {ref!r}: neither a run folder, nor a scenario with runs below {results_root}{_known(runs, ref)}"
        )
    return named[-1]


def _known(runs: list[Path], ref: str) -> str:
    """What there is instead, as the rest of a sentence: the nearest name, every scenario, its newest run."""
    if not runs:
        return " (there: none)"
    names = sorted({run.parent.name for run in runs})
    hint = did_you_mean(ref, ["latest", *names, *(run.name for run in runs)])
    there = [
        f"\n  {name}: {len(its)} run{'s' if len(its) > 1 else ''}, newest {its[-1].name}"
        for name in names
        if (its := [run for run in runs if run.parent.name == name])
    ]
    return f"{hint}; there are:{''.join(there)}"


def runs_below(results_root: Path) -> list[Path]:
    """Every run folder, oldest first (folder names begin with the UTC time; equal seconds by creation time)."""
    found = [path.parent for path in results_root.glob("*/*/run.json")]
    return sorted(found, key=lambda run: (run.name.partition("-")[0], RunLayout(run).run_json.stat().st_mtime_ns))


def whole_lines(data: bytes) -> list[bytes]:
    """The lines that end in a newline, without it."""
    return data.split(b"\n")[:-1]


def trial_from_json(fields: Any, where: str) -> Trial:
    """The trial that was stored as `fields`, by this version or an earlier one. Raises DecodeError."""
    return from_json(Trial, upgraded(fields) if isinstance(fields, dict) else fields, where)


def _trial(line: bytes, where: str) -> Trial:
    try:
        fields = json.loads(line)
        check_format(fields.pop("format", None) if isinstance(fields, dict) else None, where)
        return trial_from_json(fields, where)
    except DecodeError as error:
        raise EnvironmentFault(f"{error}; the line is damaged or from another version, cut it out") from error
    except ValueError as error:
        raise EnvironmentFault(f"{where}: damaged ({error}); cut this line out and read again") from error


def _requests_path(root: Path, trial_id: str) -> Path:
    path = RunLayout(root).requests(trial_id)
    if not path.is_file():
        raise UsageError(f"{path}: no raw records stored for trial {trial_id!r}; it ended before any request")
    return path
