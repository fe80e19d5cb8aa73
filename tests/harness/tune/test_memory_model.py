"""What launches teach of an engine's memory, and what is skipped for it: only what surely does not fit."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from harness.records import Candidate, Metric, Trial, TrialSummary
from harness.tune.failures import LEAST
from harness.tune.loop import search
from harness.tune.memory_model import ChancesToFit, memory_model, why_too_large
from harness.tune.memory_parts import explanations
from tests.harness.tune.landscape import Bench, memory_mib, scenario

BASE = Candidate(block=0, engine="ctranslate2", dtype="fp32")
SHAPES = [(1, 1), (2, 1), (1, 8), (4, 2), (2, 8), (1, 2), (4, 8)]


def _law_mib(candidate: Candidate) -> float:
    """A server of 120 MiB, workers of 400 MiB and 12 MiB for each row of a batch."""
    return 120 + candidate.workers * (400 + 12 * candidate.batch_size)


def _trial(candidate: Candidate, noise: float = 1.0) -> Trial:
    return _peaked(candidate, _law_mib(candidate) * noise)


def _peaked(candidate: Candidate, peak_mib: float) -> Trial:
    peak = Metric(value=peak_mib, unit="MiB", estimator="law", n=1)
    summary = TrialSummary(metrics={"peak_memory_mib": peak})
    return Trial(trial_id=candidate.candidate_id, number=1, candidate=candidate, outcome="ok", summary=summary)


def _of(workers: int, batch_size: int) -> Candidate:
    return replace(BASE, workers=workers, batch_size=batch_size)


def test_from_the_third_launch_peaks_are_predicted_within_five_percent() -> None:
    """200 orders of launches whose peaks vary by 1 %: the next launch, each time."""
    rng = np.random.default_rng(3)
    off = []
    for _ in range(200):
        order = [SHAPES[index] for index in rng.permutation(len(SHAPES))]
        trials = [_trial(_of(*shape), 1 + rng.normal(0, 0.01)) for shape in order]
        for count in range(3, len(order)):
            model = memory_model(BASE, trials[:count])
            assert model is not None
            candidate = trials[count].candidate
            off.append(abs(model.predicted_mib(candidate) / _law_mib(candidate) - 1))
    assert np.mean(np.array(off) <= 0.05) >= 0.8, np.quantile(off, [0.5, 0.8, 0.9, 0.95])
    assert np.median(off) <= 0.02


def test_the_parts_are_those_of_the_law() -> None:
    model = memory_model(BASE, [_trial(_of(*shape)) for shape in SHAPES])
    assert model is not None
    assert model.explanations[0].parts_of("fp32") == pytest.approx((120, 400, 12))


def test_only_what_surely_does_not_fit_is_refused_with_the_arithmetic() -> None:
    trials = [_trial(_of(*shape)) for shape in SHAPES[:4]]
    need = _law_mib(_of(8, 8))
    assert why_too_large(_of(8, 8), trials, need) is None
    assert why_too_large(_of(8, 8), trials, 0.95 * need) is None, "the bound lies 5 % or more below the prediction"
    assert why_too_large(_of(8, 8), trials, 3800) == (
        "needs at least 3834 MiB of 3800: by 4 launches, 120 + 8 workers x (400 + 8 x 12.0) = 4088 MiB, "
        "the worst of them 0.0 % off"
    )


def test_the_bound_holds_although_each_of_three_peaks_is_off() -> None:
    """Three launches are as many as the parts, which fit them exactly whatever their noise."""
    law = {(1, 1): 1110.0, (2, 1): 1620.0, (1, 16): 1260.0}
    candidate, truth = _of(4, 64), 600 + 4 * (500 + 10 * 64)
    for signs in product((-1, 0, 1), repeat=3):
        off = zip(law.items(), signs, strict=True)
        model = memory_model(BASE, [_peaked(_of(*shape), peak * (1 + 0.02 * sign)) for (shape, peak), sign in off])
        assert model is not None
        assert 0.6 * truth < model.least_mib(candidate) <= truth, signs


def test_the_peak_of_a_launch_that_ended_early_rules_nothing_out() -> None:
    """It may have ended before its largest batch: 20 % too low at a small shape is 70 % too much at a large one."""
    whole = [_trial(_of(*shape)) for shape in ((2, 1), (1, 16))]
    early = replace(_trial(_of(1, 1), 0.8), outcome="ended_early")
    assert memory_model(BASE, [*whole, early]) is None
    model = memory_model(BASE, [*whole, _trial(_of(4, 1)), early])
    assert model is not None
    assert len(model.peaks) == 3
    assert _chance(_of(8, 16), [early], 800.0) < 1, "proposals are weighed by it all the same"


def test_launches_that_fit_no_model_refuse_less() -> None:
    trials = [_trial(_of(*shape), noise) for shape, noise in zip(SHAPES, (1.0, 1.4, 0.7, 1.3, 0.8), strict=False)]
    assert why_too_large(_of(4, 8), trials, 0.8 * _law_mib(_of(4, 8))) is None


DTYPES = ("fp32", "bf16", "int8")
LAWS = ("rows as wide as weights", "rows as wide as what is computed", "weights that workers share")


def _in_dtypes_mib(law: str, dtype: str, workers: int, batch: int) -> float:
    size, width = {"fp32": (4.0, 4.0), "bf16": (2.0, 2.0), "int8": (1.1, 2.0)}[dtype]
    if law == LAWS[2]:
        return 300 + 900 * size + workers * (200 + 60 * width * batch)
    return 300 + workers * (400 * size + 60 * batch * (size if law == LAWS[0] else width))


@pytest.mark.parametrize("law", LAWS)
def test_an_engines_third_launch_is_enough_for_most_peaks_in_all_of_its_dtypes(law: str) -> None:
    """30 orders of launches in three dtypes whose peaks vary by 1 %: the next launch, each time."""
    rng = np.random.default_rng(5)
    shapes = [(dtype, *shape) for dtype in DTYPES for shape in SHAPES]
    off = []
    for _ in range(30):
        order = [shapes[index] for index in rng.permutation(len(shapes))][:10]
        peaks = {shape: _in_dtypes_mib(law, *shape) * (1 + rng.normal(0, 0.01)) for shape in order}
        for count in range(3, len(order)):
            found = explanations({shape: peaks[shape] for shape in order[:count]})
            dtype, workers, batch = order[count]
            candidate = replace(BASE, dtype=dtype, workers=workers, batch_size=batch)
            off.append(abs(found[0].peak_mib(candidate) / _in_dtypes_mib(law, *order[count]) - 1))
    assert np.mean(np.array(off) <= 0.05) >= 0.6, np.quantile(off, [0.5, 0.8, 0.9])
    assert np.median(off) <= 0.04


def _chance(candidate: Candidate, launched: list[Trial], memory_mib: float) -> float:
    return ChancesToFit(launched, memory_mib).chance(candidate)


def test_what_one_launch_leaves_open_is_a_chance_between() -> None:
    """Of one launch all may be base, so that nothing more is needed, or all rows."""
    launched = [_trial(_of(1, 1))]
    assert _chance(_of(1, 1), launched, 800.0) == 1.0
    chances = [_chance(_of(*shape), launched, 800.0) for shape in [(2, 1), (2, 8), (4, 8)]]
    assert 1 > chances[0] > chances[1] > chances[2] > LEAST
    assert _chance(_of(4, 8), launched, 500.0) == LEAST, "ruled out is nothing"
    assert _chance(_of(4, 8), [], 800.0) == 1.0, "nothing is known before the first launch"
    assert _chance(replace(_of(4, 8), device="cuda"), launched, 800.0) == 1.0, "its peak is not the host's"


def test_a_launch_of_another_dtype_and_a_failed_one_teach() -> None:
    launched = [_trial(_of(*shape)) for shape in SHAPES[:4]]
    failed = Trial(trial_id="f", number=9, candidate=_of(1, 8), outcome="out_of_memory")
    assert _chance(replace(_of(4, 8), dtype="int8"), launched, 3_000.0) == 1.0, "a quarter of the weights and rows"
    assert _chance(replace(_of(4, 8), dtype="int8"), launched, 400.0) == LEAST
    first = launched[:1]
    assert _chance(_of(1, 16), first, 1500.0) > 0.3
    assert _chance(_of(1, 16), [*first, failed], 1500.0) == LEAST, "its batch took more than the machine has"


def test_a_launch_that_a_smaller_machine_could_not_hold_lowers_no_chance() -> None:
    first, memories_mib = [_trial(_of(1, 1))], {"small": 750.0, "large": 1500.0}
    for machine, expected in (("small", _chance(_of(1, 16), first, 1500.0)), ("large", LEAST)):
        failed = Trial(trial_id="f", number=9, candidate=_of(1, 8), outcome="out_of_memory", machine=machine)
        assert ChancesToFit([*first, failed], 1500.0, memories_mib).chance(_of(1, 16)) == expected


def test_another_engine_dtype_or_option_and_two_launches_teach_nothing() -> None:
    trials = [_trial(_of(*shape)) for shape in SHAPES]
    assert memory_model(BASE, trials[:2]) is None
    assert memory_model(BASE, [*trials[:2], trials[0]]) is None, "the same candidate again is no third"
    for other in (replace(BASE, dtype="int8"), replace(BASE, engine="fake"), replace(BASE, options={"slots": 2})):
        assert memory_model(other, trials) is None
    assert why_too_large(replace(BASE, device="cuda", workers=8), trials, 1.0) is None, "its peak is not the host's"


def test_a_search_skips_what_does_not_fit_unless_pruning_is_off(tmp_path: Path) -> None:
    """The landscape's law; the machine has 3,000 MiB, and nothing runs out of memory before it is asked."""
    of = scenario({"trials": 12}, space=[{"engine": "ctranslate2", "workers": [1, 2, 4, 16], "batch_size": [1, 8, 32]}])
    launched = {}
    for prunes in (True, False):
        bench = Bench(of, tmp_path / f"{prunes}.db")
        result = search(replace(bench.context(), memory_mib=3000.0, prunes=prunes))
        launched[prunes] = [memory_mib(each) for each in bench.launched]
        skipped = [trial for trial in result.trials if trial.outcome == "skipped"]
        assert all("needs at least" in trial.reason or "ran out of memory" in trial.reason for trial in skipped)
        assert all(memory_mib(trial.candidate) > 3000 for trial in skipped)
    assert sum(each > 3000 for each in launched[True]) < sum(each > 3000 for each in launched[False])
