"""How long a search should take by earlier ones: what is learnt from, and how often the interval holds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.records import Candidate, Trial
from harness.scenario.schema import Scenario
from harness.space.plan_text import Forecast
from harness.store.formats import RunManifest
from harness.store.reader import Run
from harness.tune import forecast as forecasting
from harness.tune.forecast import forecast
from tests.harness.tune.landscape import ENGINE_COST, resolved, scenario

ENGINES = tuple(ENGINE_COST)
REPLAYS = 80


def _run(trials: Sequence[Trial], of: Scenario) -> Run:
    manifest = RunManifest(
        scenario=resolved(of).as_dict(), digest="0123456789", created_utc="2026-11-29T12:00:00+00:00"
    )
    late = tuple(replace(trial, started_utc="2026-11-29T12:00:10+00:00") for trial in trials)
    return Run(root=Path("run"), manifest=manifest, trials=late)


def _trials(seconds: float, count: int = 12, engine: str = ENGINES[0]) -> list[Trial]:
    return [
        Trial(
            trial_id=f"t{number}",
            number=number,
            candidate=Candidate(block=0, engine=engine, workers=number),
            outcome="ok",
            phase_s={"launch": 1.0, "load": seconds - 1.0},
        )
        for number in range(1, count + 1)
    ]


def _known(*runs: Run, of: Scenario | None = None, engines: Sequence[str] = ENGINES[:1]) -> Forecast | None:
    return forecast(resolved(of or scenario({"trials": 12})), 432, engines, runs)


def test_without_a_run_of_the_same_load_and_quality_nothing_is_known() -> None:
    of = scenario({"trials": 12})
    other = scenario({"trials": 12}, workload={"requests": 7})
    stricter = scenario({"trials": 12}, quality={"prompts": 9})
    assert _known() is None
    assert _known(_run(_trials(20.0), other), _run(_trials(20.0), stricter), _run([], of)) is None
    assert _known(_run(_trials(20.0, engine="elsewhere"), of)) is None


def test_setup_trials_and_the_launch_of_the_written_file_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasting, "DAY_FRAC", 0.0)
    of = scenario({"trials": 12, "sampler": "grid"})
    found = _known(_run(_trials(20.0), of), of=of)
    assert found is not None
    assert (found.low_s, found.high_s) == (pytest.approx(10 + 13 * 20),) * 2
    short = scenario({"trials": 12, "sampler": "grid", "max_minutes": 2.0})
    assert (again := _known(_run(_trials(20.0), of), of=short)) is not None
    assert (again.low_s, again.high_s) == (120.0, 120.0)


def test_another_number_of_trials_is_not_taken_from_a_run_that_was_asked_for_fewer() -> None:
    few, many = scenario({"trials": 12}), scenario({"trials": 40})
    found = _known(_run(_trials(20.0), few), of=many)
    assert found is not None
    assert found.low_s < 10 + 14 * 20
    assert found.high_s > 10 + 34 * 20


def test_engines_that_no_run_tried_are_named() -> None:
    of = scenario({"trials": 12})
    found = _known(_run(_trials(20.0), of), of=of, engines=ENGINES)
    assert found is not None
    assert found.text.endswith(f"; none of them tried {ENGINES[1]}, {ENGINES[2]}")
    assert "by 12 trials of 1 earlier run of this model" in found.text


def _search(rng: random.Random) -> list[Trial]:
    """A search that ends after 8 to 14 trials, of which every third loses its race; launches take as long as the
    engine, the day and chance make them."""
    day = rng.lognormvariate(0.0, 0.05)
    trials = []
    for number in range(1, rng.choice([8, 9, 10, 11, 12, 13, 14, 14, 14, 14]) + 5):
        engine = rng.choice(ENGINES)
        launch_s = day * rng.lognormvariate(2.0 + ENGINES.index(engine) / 2, 0.3)
        load_s = rng.choice([15.0, 15.0, rng.uniform(2.0, 8.0)])
        candidate = Candidate(block=0, engine=engine, workers=number)
        phases = {"launch": launch_s, "load": load_s}
        trials.append(Trial(trial_id=f"t{number}", number=number, candidate=candidate, outcome="ok", phase_s=phases))
    return [*trials[:-4], *(replace(each, repetition=1 + at // 2) for at, each in enumerate(trials[-4:]))]


@pytest.mark.parametrize("earlier", [1, 4])
def test_eight_of_ten_searches_end_within_the_interval(monkeypatch: pytest.MonkeyPatch, earlier: int) -> None:
    monkeypatch.setattr(forecasting, "DRAWS", 200)
    of = scenario({"trials": 14, "confirm": {"finalists": 2, "repetitions": 2}})
    rng, held = random.Random(earlier), 0
    for _ in range(REPLAYS):
        found = _known(*(_run(_search(rng), of) for _ in range(earlier)), of=of, engines=ENGINES)
        trials = _search(rng)
        took_s = 10 + sum(each.duration_s for each in trials) + rng.choice(trials[-4:]).duration_s
        assert found is not None
        held += found.low_s <= took_s <= found.high_s
    assert 0.70 <= held / REPLAYS <= 0.90, held / REPLAYS
