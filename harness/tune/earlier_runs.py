"""The earlier runs in the store that are like a new one, and how much launches differed in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engines.errors import EngineError
from engines.models.checkpoint.kind import ModelKind
from harness.errors import DynoError, StaleScenario
from harness.measure.machine.machine_class import class_of
from harness.properties.containers import parse_container
from harness.records import Trial
from harness.scenario.resolve import ResolvedScenario
from harness.space.capabilities import model_kind_of
from harness.store.reader import Run, read_manifest, read_run, runs_below, trial_from_json
from harness.tune.spreads import Squares, squares

MOST_RUNS = 50
"""Earlier runs of this machine class that are looked at, the newest: reading one takes some milliseconds."""
ENOUGH_FREEDOM = 30
"""Degrees of freedom with which a spread is known to 13 %: older runs are not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a run was measured on: a model, of a kind where that is known, and a machine."""

    model: str
    kind: ModelKind | None
    machine: Mapping[str, object]

    def is_family(self, model: str, kind: ModelKind | None) -> bool:
        """Whether that is the same model, or one of its family."""
        families = [each.model_type for each in (kind, self.kind) if each is not None]
        return model == self.model or (len(families) == 2 and families[0] == families[1])


def model_of(run: Run) -> tuple[ResolvedScenario | None, str, ModelKind | None]:
    """(its scenario, its model, the kind of it) as far as they can still be known: the model's folder may be gone, or
    the scenario be of an older version, while its trials can be read."""
    try:
        then = run.resolved
        return then, then.model.value, model_kind_of(then)
    except (EngineError, StaleScenario):
        return None, "", None


def earlier_spreads(
    results: Path, more: Sequence[Path], here: Place, metric: str, engines: Sequence[str], *, before: str = ""
) -> dict[str, Squares]:
    """Engine -> how launches differed in `metric` in the runs below `results` and in the runs `more`: in those of the
    same model family on the same class of machine. `before` is when the run began that will use it (UTC, ISO; '': it
    has not begun): what was measured later is left out, so that a resumed search races as the interrupted one did."""
    known: dict[str, Squares] = {}
    for run in runs_like(results, more, here, before):
        trials = [trial for trial in (*run.trials, *_verified(run)) if not before or trial.started_utc < before]
        for engine, found in squares(trials, metric).items():
            if engine in engines and found.freedom:
                known[engine] = known.get(engine, Squares()) + replace(found, runs=1)
        if all(known.get(engine, Squares()).freedom >= ENOUGH_FREEDOM for engine in engines):
            break
    return known


def runs_like(results: Path, more: Sequence[Path], here: Place, before: str = "") -> Iterator[Run]:
    """The runs below `results` and the runs `more` of the same model family on the same class of machine, newest first;
    a damaged one is none. `before` as in `earlier_spreads`."""
    wanted, looked_at = class_of(here.machine), 0
    named = [root.resolve() for root in more]
    found = [root.resolve() for root in reversed(runs_below(results))]
    for root in dict.fromkeys((*named, *found)):
        try:
            manifest = read_manifest(root)
            is_later = bool(before) and manifest.created_utc >= before
            if is_later or looked_at >= MOST_RUNS or not wanted or class_of(manifest.machine) != wanted:
                continue
            looked_at += 1
            run = read_run(root)
        except (DynoError, OSError):
            continue
        if here.is_family(*model_of(run)[1:]):
            yield run


def _verified(run: Run) -> tuple[Trial, ...]:
    """The launch of the written file, where our own server was started from it: one more of the recommended one."""
    path = run.layout.recommendation_dir / "verification.json"
    then = model_of(run)[0]
    if then is None or not parse_container(then.scenario.recommend.container).is_own:
        return ()
    try:
        return (trial_from_json(json.loads(path.read_bytes())["trial"], str(path)),)
    except (DynoError, OSError, ValueError, KeyError, TypeError):
        return ()
