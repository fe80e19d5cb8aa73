"""A recorded landscape is replayed with its pairs, its costs and its two launches apart; other tools see its axes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.api import Availability, Capabilities
from harness.errors import EnvironmentFault
from harness.records import Candidate, Trial
from harness.scenario.resolve import resolve
from harness.scenario.schema import Scenario
from harness.space.candidates import SpacePlan, plan_space
from tests.bench.landscapes.landscape import Landscape, Launch, read, write
from tests.bench.landscapes.order import ANCHOR, order_of
from tests.bench.tuner import bench_tuner
from tests.bench.tuner.axes import Axes
from tests.bench.tuner.bench_tuner import left_out, row, table
from tests.bench.tuner.laws import LAWS, METRIC, TRIALS
from tests.bench.tuner.recorded import Recorded
from tests.bench.tuner.replay import CONTESTANTS, run

USERS = 4
LAUNCH_S, COLD_S, LOAD_S, QUALITY_S = 3.0, 9.0, 8.0, 1.0
LAW = replace(LAWS[2], launch_sd=0.02)


def _space(space: list[dict[str, object]]) -> tuple[Scenario, SpacePlan]:
    made = Scenario.model_validate(
        {
            "name": "recorded",
            "workload": {"load": {"kind": "closed", "users": USERS}},
            "space": space,
            "objectives": [{"metric": METRIC, "goal": "minimize"}],
        }
    )

    def able(engine: str, python: str) -> Capabilities | Availability:
        return Capabilities(effective_dtypes={name: name for name in ("fp32", "bf16", "int8")}, options={})

    return made, plan_space(resolve(made, Path("recorded.yaml")), able)


SPACE: list[dict[str, object]] = [
    {"engine": "fake", "dtype": ["fp32", "bf16", "int8"], "workers": [1, 2], "batch_size": [1, 4, 16],
     "threads": [1, 2], "max_batch_delay_ms": [0, 5]}
]  # fmt: skip


def _waited_ms(candidate: Candidate, requests: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A request takes the candidate's time times its number's own factor, so that pairs have one ratio."""
    return LAW.latency_ms(candidate) * (1 + np.arange(requests) % 7 / 10)


def _recorded(requests: int = 96, second: float = 1.0) -> Recorded:
    """A landscape of the interaction law without luck, in which slower candidates answer fewer requests; `second`
    multiplies what the second launches measure."""
    made, space = _space(SPACE)
    order = order_of(space.candidates, 0)
    launches = []
    for each in order:
        count = requests if LAW.loss_frac(each.candidate) < 1 else requests // 2
        waited = _waited_ms(each.candidate, count)
        began = np.repeat(np.concatenate([[0.0], np.cumsum(waited[::USERS])[:-1]]), USERS)[:count]
        trial = replace(LAW, launch_sd=0.0).trial(each.candidate, each.number, 0)
        trial = _times(trial, second if each.in_pass == 2 else 1.0)
        is_cold = each.number == 2
        phase_s = {"launch": COLD_S if is_cold else LAUNCH_S, "load": LOAD_S}
        phase_s |= {"quality": QUALITY_S} if each.in_pass == 1 else {}
        launches.append(
            Launch(
                trial=replace(trial, phase_s=phase_s),
                in_pass=each.in_pass,
                is_cold=is_cold,
                began_ms=began,
                waited_ms=waited,
            )
        )
    machine = {"cpu_model": "A CPU", "cpu_flags": [], "cores_usable": 2}
    return Recorded(
        found=Landscape(
            scenario=made, plan=space, machine=machine, commit="", planned=len(order), launches=tuple(launches)
        )
    )


def _times(trial: Trial, factor: float) -> Trial:
    summary = trial.summary
    assert summary is not None
    metric = replace(summary.metrics[METRIC], value=summary.metrics[METRIC].value * factor)
    return replace(trial, summary=replace(summary, metrics={**summary.metrics, METRIC: metric}))


def _value(trial: Trial) -> float:
    assert trial.summary is not None
    return trial.summary.metrics[METRIC].value


def test_all_candidates_of_a_search_have_the_same_drawn_requests() -> None:
    ground = _recorded()
    best = min(ground.plan.candidates, key=ground.loss_frac)
    worst = max(ground.plan.candidates, key=ground.loss_frac)
    slow, fast = (ground.trial(each, number, 5) for number, each in enumerate((worst, best), 1))
    mine, its = ground.pair(slow, fast, 5)
    assert len(mine.waited) == len(its.waited) == 48, "the slower one answered half as many"
    known = np.isfinite(its.waited)
    assert known.mean() > 0.5
    ratios = mine.waited[known] / its.waited[known]
    assert ratios == pytest.approx(LAW.latency_ms(worst) / LAW.latency_ms(best))
    assert (np.diff(mine.began) >= 0).all()
    again, _ = ground.pair(slow, slow, 5)
    np.testing.assert_array_equal(again.waited, mine.waited)
    other, _ = ground.pair(ground.trial(worst, 1, 6), fast, 6)
    assert not np.array_equal(other.waited, mine.waited), "another seed draws other blocks"


def test_what_a_candidate_truly_is_is_the_mean_of_both_launches() -> None:
    same, differs = _recorded(), _recorded(second=1.5)
    one = same.plan.candidates[0]
    for ground, truth_ms in ((same, LAW.latency_ms(one)), (differs, LAW.latency_ms(one) * math.sqrt(1.5))):
        values = [_value(ground.trial(one, 1, seed)) for seed in range(200)]
        assert np.exp(np.mean(np.log(values))) == pytest.approx(truth_ms, rel=0.05)
        assert len(set(values)) > 1
        assert ground.loss_frac(one) == pytest.approx(
            LAW.latency_ms(one) / min(map(LAW.latency_ms, same.plan.candidates)) - 1
        )
    assert same.redeployed_frac(one, LAW.latency_ms(one), 0) == pytest.approx(0.0)
    luck = 1.5 ** math.sqrt(0.5)
    again = {round(differs.redeployed_frac(one, truth_ms, seed) or 0.0, 4) for seed in range(20)}
    assert again == {round(luck - 1, 4), round(1 / luck - 1, 4)}
    assert (same.unlucky_frac(0.1), differs.unlucky_frac(0.1), differs.unlucky_frac(0.4)) == (0, 0.5, 0)
    assert row(same, "random", 2)["lost_on_redeployment"] == 0


def test_a_launch_has_the_luck_that_pairs_of_its_engine_show() -> None:
    one = _recorded().plan.candidates[0]
    ground = _recorded(second=math.exp(0.1 * math.sqrt(2)))
    half_gap = 0.1 / math.sqrt(2)
    ends = {round(math.log(ground._luck(ground.trial(one, number, 0), 0)), 6) for number in range(1, 30)}
    assert ends == {round(half_gap - 0.1, 6), round(half_gap + 0.1, 6)}, "the mean of both, and the luck of one"


def test_a_trial_costs_what_was_measured_and_a_part_of_its_load_less() -> None:
    ground = _recorded()
    trials = [ground.trial(each, 1, 0) for each in ground.plan.candidates]
    assert all(trial.phase_s == {"launch": LAUNCH_S, "load": LOAD_S} for trial in trials), "no cold launch, no quality"
    costs = [ground.load_s(trials[0], requests, 0) for requests in (8, 24, 40, 96)]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1] == LOAD_S
    assert ground.quality_s(ground.plan.candidates[0]) == QUALITY_S
    assert ground.total_min() == pytest.approx(ground.plan.size * (LAUNCH_S + LOAD_S) / 60)


@pytest.mark.parametrize("contestant", CONTESTANTS)
def test_every_contestant_searches_a_landscape(contestant: str) -> None:
    if why := left_out().get(contestant):
        pytest.skip(why)
    ground = _recorded()
    first, again = run(ground, contestant, 3), run(ground, contestant, 3)
    assert first == again
    assert 0 <= first.loss_frac < 1
    assert first.launches - first.reopened <= TRIALS + 2 * 4
    assert first.minutes <= first.launches * (LAUNCH_S + LOAD_S) / 60 + 1e-9


def test_racing_saves_load_on_a_landscape() -> None:
    whole, raced = (run(_recorded(), name, 1) for name in ("TPE, all trials", "dyno, racing"))
    assert raced.ended > 0
    assert raced.minutes < whole.minutes


def test_the_table_of_a_landscape_names_it_and_counts_what_is_lost_on_redeployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ground = _recorded()
    text = table([row(ground, "grid", 2)], (), ground)
    assert "# The search on the recorded landscape recorded" in text
    assert "minutes to within 5 % | lost >= 10 % on redeployment |" in text
    assert f"all candidates once: {ground.total_min():.1f} minutes" in text
    write(tmp_path, ground.found)
    assert Recorded(found=read(tmp_path)).loss_frac(ground.plan.candidates[0]) == pytest.approx(
        ground.loss_frac(ground.plan.candidates[0])
    )
    monkeypatch.setattr("sys.argv", ["bench_tuner", "--landscape", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        bench_tuner.main()
    assert "cannot be read" in capsys.readouterr().err


def test_a_landscape_without_a_second_launch_is_refused() -> None:
    found = _recorded().found
    last = [each for each in found.launches if each.in_pass != ANCHOR][-1]
    with pytest.raises(EnvironmentFault, match="1 have fewer"):
        Recorded(found=replace(found, launches=tuple(each for each in found.launches if each is not last)))


def test_axes_of_several_blocks_lead_to_every_candidate_and_to_no_other() -> None:
    _, space = _space([
        {"engine": "fake", "dtype": ["fp32", "int8"], "threads": [1, 2]},
        {"engine": "fake", "dtype": ["fp32", "bf16"], "batch_size": [4, 8], "max_batch_delay_ms": 5},
    ])  # fmt: skip
    axes = Axes.of(space)
    assert axes.words == {"block": ["0", "1"], "dtype": ["fp32", "int8", "bf16"]}
    assert axes.numbers == {"threads": [1, 2], "batch_size": [4, 8]}
    for each in space.candidates:
        assert axes.candidate(axes.of_candidate(each)) == each
    there = axes.candidate({"block": "1", "dtype": "int8", "threads": 2, "batch_size": 8})
    assert (there.dtype, there.batch_size, there.threads, there.max_batch_delay_ms) == ("fp32", 8, None, 5)
