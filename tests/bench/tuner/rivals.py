"""Other tools on a law: Optuna's GP sampler, its WilcoxonPruner on blocks of requests, and SMAC3.

Each is used as its documentation shows, with axes in their order where it takes any. All search TRIALS candidates and
measure two finalists again as dyno does. Packages that dyno does not need are imported by whoever needs them.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna

from harness.race import Race
from harness.records import Candidate, Trial
from harness.tune.finalists import remaining
from tests.bench.tuner.axes import Axes, Value
from tests.bench.tuner.laws import TRIALS
from tests.bench.tuner.recorded import Ground

REPEATS = 24
"""How often a tool may propose what it has measured before an unseen candidate is drawn instead."""


def confirmed(law: Ground, seed: int, trials: list[Trial]) -> list[Trial]:
    """The trials, then those of the two best again, in turns."""
    for candidate, repetition in remaining(trials, law.scenario()):
        trials.append(replace(law.trial(candidate, len(trials) + 1, seed), repetition=repetition))
    return trials


def by_gp(law: Ground, seed: int) -> list[Trial]:
    """Optuna's Gaussian process, on the logarithm of the latency."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _by_optuna(law, seed, optuna.samplers.GPSampler(seed=seed), None, is_ordered=True)


def by_wilcoxon(law: Ground, seed: int) -> list[Trial]:
    """TPE as in the baseline, and Optuna's pruner of paired blocks, at its default level."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # beside others one that nothing is pruned while the best has crashed
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=TRIALS // 3)
        return _by_optuna(law, seed, sampler, optuna.pruners.WilcoxonPruner(n_startup_steps=2), is_ordered=False)


def _by_optuna(
    law: Ground,
    seed: int,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner | None,
    is_ordered: bool,
) -> list[Trial]:
    optuna.logging.set_verbosity(logging.ERROR)
    study = optuna.create_study(sampler=sampler, pruner=pruner)
    trials: dict[str, Trial] = {}
    costs: dict[str, float] = {}
    axes = law.axes
    rng = np.random.default_rng(seed)
    while len(trials) < TRIALS:
        for _ in range(REPEATS):
            asked = study.ask()
            candidate = _suggested(axes, asked, is_ordered)
            if candidate.candidate_id not in trials:
                break
            study.tell(asked, costs[candidate.candidate_id])
        else:
            candidate = _unseen(law, trials, rng)
            study.enqueue_trial(_params(axes, candidate, is_ordered))
            asked = study.ask()
            _suggested(axes, asked, is_ordered)
        trial = law.trial(candidate, len(trials) + 1, seed)
        trial, cost = _pruned(law, trial, seed, asked) if pruner is not None else (trial, math.log(law.cost(trial)))
        trials[candidate.candidate_id], costs[candidate.candidate_id] = trial, cost
        study.tell(asked, cost)
    return confirmed(law, seed, list(trials.values()))


def _pruned(law: Ground, trial: Trial, seed: int, asked: optuna.Trial) -> tuple[Trial, float]:
    """The trial as far as the pruner lets it run, and what the study is given: the mean of its blocks' medians, as the
    pruner's documentation asks for."""
    if not trial.is_feasible:
        every = [value for _, value, _ in law.blocks(trial, seed)] if trial.summary is not None else []
        return trial, max(law.cost(trial), 2 * max(every, default=0.0))
    blocks, values = law.blocks(trial, seed), list[float]()
    for number, value, requests in blocks:
        asked.report(value, number)
        values.append(value)
        if asked.should_prune() and len(values) < len(blocks):
            return _ended(law, trial, requests, len(blocks), seed), float(np.mean(values))
    return trial, float(np.mean(values))


def _ended(law: Ground, trial: Trial, requests: int, checks: int, seed: int) -> Trial:
    """Its record, with a race that states no bound: the pruner knows none."""
    race = Race(
        against="", metric=law.metric, against_value=law.cost(trial), margin_frac=0.0, level=0.1, check=1,
        checks=checks, requests=requests, blocks=1, block_requests=requests, worse_frac=0.0, at_least_frac=0.0,
    )  # fmt: skip
    phase_s = {**trial.phase_s, "load": law.load_s(trial, requests, seed)}
    return replace(trial, outcome="ended_early", race=race, phase_s=phase_s)


def by_smac(law: Ground, seed: int) -> list[Trial]:
    """SMAC3's facade for tuning hyperparameters: a random forest, one measurement of each configuration."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes, trials = law.axes, dict[str, Trial]()
        tool = _smac(axes, seed, Path(folder))
        for info in _asked(tool):
            candidate = axes.candidate(dict(info.config))
            name = candidate.candidate_id
            if name not in trials:
                trials[name] = law.trial(candidate, len(trials) + 1, seed)
            _answer(tool, info, trials[name], law.cost(trials[name]))
            if len(trials) >= TRIALS:
                break
    return confirmed(law, seed, list(trials.values()))


def by_smac_in_parts(law: Ground, seed: int) -> list[Trial]:
    """SMAC3's facade of several fidelities: Hyperband over parts of a load from PART on, each a launch, until TRIALS
    whole trials' clock is over."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes, trials, seen = law.axes, list[Trial](), dict[tuple[str, float], Trial]()
        tool = _smac(axes, seed, Path(folder), part=PART)
        left_s = TRIALS * float(np.mean([law.trial(each, 1, seed).duration_s for each in law.plan.candidates]))
        for info in _asked(tool):
            candidate = axes.candidate(dict(info.config))
            key = (candidate.candidate_id, info.budget)
            if key not in seen:
                seen[key] = _part(law, law.trial(candidate, len(trials) + 1, seed), info.budget, seed)
                trials.append(seen[key])
                left_s -= seen[key].duration_s
            _answer(tool, info, seen[key], _part_cost(law, seen[key], seed))
            if left_s <= 0:
                break
    return confirmed(law, seed, trials)


PART = 0.25
"""Of a load, the least that is measured: about a probe."""


def _part(law: Ground, trial: Trial, budget: float, seed: int) -> Trial:
    """The trial as far as that share of its load."""
    blocks = law.blocks(trial, seed) if trial.summary is not None else []
    count = max(1, math.ceil(budget * len(blocks)))
    return _ended(law, trial, blocks[count - 1][2], len(blocks), seed) if count < len(blocks) else trial


def _part_cost(law: Ground, trial: Trial, seed: int) -> float:
    """The mean of the blocks that were measured; of what was not feasible, its cost."""
    if trial.summary is None or trial.violations:
        return law.cost(trial)
    last = trial.race.requests if trial.race is not None else math.inf
    return float(np.mean([value for _, value, end in law.blocks(trial, seed) if end <= last]))


def _smac(axes: Axes, seed: int, folder: Path, part: float | None = None) -> Any:
    from ConfigSpace import ConfigurationSpace, OrdinalHyperparameter
    from smac import HyperparameterOptimizationFacade, MultiFidelityFacade, Scenario

    facade = HyperparameterOptimizationFacade if part is None else MultiFidelityFacade
    budgets = {} if part is None else {"min_budget": part, "max_budget": 1.0}
    space = ConfigurationSpace({axis: list(words) for axis, words in axes.words.items()}, seed=seed)
    space.add([OrdinalHyperparameter(axis, list(numbers)) for axis, numbers in axes.numbers.items()])
    about = Scenario(space, deterministic=True, n_trials=8 * TRIALS, seed=seed, output_directory=folder, **budgets)
    start = facade.get_initial_design(about, n_configs=TRIALS // 3)
    target = _never if part is None else _never_in_part
    return facade(about, target, initial_design=start, overwrite=True, logging_level=logging.ERROR)


def _never(config: object, seed: int = 0) -> float:
    raise AssertionError("asked and answered, never called")


def _never_in_part(config: object, seed: int = 0, budget: float = 1.0) -> float:
    return _never(config, seed)


def _asked(tool: Any) -> Iterator[Any]:
    while True:
        try:
            yield tool.ask()
        except StopIteration:
            return


def _answer(tool: Any, info: Any, trial: Trial, cost: float) -> None:
    from smac.runhistory.dataclasses import TrialValue
    from smac.runhistory.enumerations import StatusType

    status = StatusType.SUCCESS if trial.summary is not None else StatusType.CRASHED
    tool.tell(info, TrialValue(cost=cost, time=trial.duration_s, status=status))


def _suggested(axes: Axes, asked: optuna.Trial, is_ordered: bool) -> Candidate:
    chosen: dict[str, Value] = {axis: asked.suggest_categorical(axis, words) for axis, words in axes.words.items()}
    for axis, values in axes.numbers.items():
        if is_ordered:
            chosen[axis] = values[asked.suggest_int(axis, 0, len(values) - 1)]
        else:
            chosen[axis] = asked.suggest_categorical(axis, values)
    return axes.candidate(chosen)


def _params(axes: Axes, candidate: Candidate, is_ordered: bool) -> dict[str, Any]:
    chosen: dict[str, Any] = axes.of_candidate(candidate)
    places = {axis: values.index(chosen[axis]) for axis, values in axes.numbers.items()} if is_ordered else {}
    return {**chosen, **places}


def _unseen(law: Ground, trials: Mapping[str, Trial], rng: np.random.Generator) -> Candidate:
    left = [each for each in law.plan.candidates if each.candidate_id not in trials]
    return left[int(rng.integers(len(left)))]


RIVALS: dict[str, tuple[Callable[[Ground, int], list[Trial]], tuple[str, ...]]] = {
    "Optuna GP": (by_gp, ("torch", "scipy")),
    "TPE, WilcoxonPruner": (by_wilcoxon, ("scipy",)),
    "SMAC3": (by_smac, ("smac",)),
    "SMAC3, in parts": (by_smac_in_parts, ("smac",)),
}
"""Name -> the search, and the packages without which it is left out."""
