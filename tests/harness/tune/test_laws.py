"""The programmed laws of the tuner's bench have the difficulty that they name; a part of the bench is replayed."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from tests.bench.tuner import bench_tuner
from tests.bench.tuner.bench_tuner import left_out, row, table
from tests.bench.tuner.laws import LAWS, TRIALS, Law, plan
from tests.bench.tuner.replay import CONTESTANTS, run

BY_NAME = {law.name: law for law in LAWS}


def _measured_ms(law: Law, number: int, seed: int = 0) -> float:
    summary = law.trial(plan().candidates[0], number, seed).summary
    assert summary is not None
    return summary.metrics["latency_p50_ms"].value


def test_three_in_ten_candidates_crash_in_the_crash_region_only() -> None:
    shares = {law.name: sum(map(law.crashes, plan().candidates)) / plan().size for law in LAWS}
    assert shares.pop("crash region") == pytest.approx(0.3, abs=0.02)
    assert set(shares.values()) == {0.0}


def test_few_launches_end_out_of_memory_although_three_in_ten_candidates_would() -> None:
    few = [run(BY_NAME["crash region"], "dyno, racing", seed) for seed in range(6)]
    assert sum(each.out_of_memory for each in few) <= 0.03 * sum(each.launches for each in few)


def test_most_of_the_plateau_is_level() -> None:
    values = [BY_NAME["plateau"].latency_ms(each) for each in plan().candidates]
    assert values.count(50.0) / len(values) > 0.8
    assert min(values) < 20


def test_no_axis_of_the_interaction_is_best_alone() -> None:
    """Threads that suit one worker count are the wrong ones for another."""
    law = BY_NAME["interaction"]
    by_pair = {
        (each.workers, each.threads): law.latency_ms(each)
        for each in plan().candidates
        if (each.dtype, each.batch_size, each.max_batch_delay_ms) == ("int8", 16, 5)
    }
    assert by_pair[1, 4] < by_pair[1, 1]
    assert by_pair[2, 4] > by_pair[2, 1]


def test_only_the_tie_has_many_best_candidates() -> None:
    counts = {law.name: sum(law.loss_frac(each) == 0 for each in plan().candidates) for law in LAWS}
    assert counts["tie"] >= 9
    assert counts["drift"] == 1


def test_noise_and_drift_are_what_the_law_states() -> None:
    heavy = [_measured_ms(BY_NAME["heavy noise"], 1, seed) for seed in range(200)]
    assert statistics.stdev(heavy) / statistics.mean(heavy) == pytest.approx(0.15, rel=0.15)
    drifting, still = (_measured_ms(BY_NAME[name], 21) for name in ("drift", "plateau"))
    truth = {name: BY_NAME[name].latency_ms(plan().candidates[0]) for name in ("drift", "plateau")}
    assert drifting / truth["drift"] / (still / truth["plateau"]) == pytest.approx(1.2)


@pytest.mark.parametrize("contestant", CONTESTANTS)
def test_a_replay_is_a_function_of_its_seed(contestant: str) -> None:
    if why := left_out().get(contestant):
        pytest.skip(why)
    law = BY_NAME["crash region"]
    first, again = run(law, contestant, 3), run(law, contestant, 3)
    assert first == again
    assert first.launches - first.reopened <= TRIALS + 2 * 4
    assert first.loss_frac >= 0


def test_the_search_beats_a_grid_on_a_smooth_law() -> None:
    found = {name: row(BY_NAME["drift"], name, 2) for name in ("grid", "TPE, all trials")}
    losses = {name: float(str(one["median_loss_frac"])) for name, one in found.items()}
    assert losses["TPE, all trials"] < losses["grid"]
    assert "| drift | grid |" in table([found["grid"]])


def test_the_largest_expected_gain_finds_the_best_where_random_draws_do_not() -> None:
    found = {name: row(BY_NAME["drift"], name, 3) for name in ("random", "GP, all trials")}
    losses = {name: float(str(one["median_loss_frac"])) for name, one in found.items()}
    assert losses["GP, all trials"] <= 0.05 < losses["random"]


def test_where_launches_differ_by_much_races_are_judged_again_and_nothing_better_stays_unmeasured() -> None:
    noisy, quiet = (run(BY_NAME[name], "dyno, racing", 0) for name in ("heavy noise", "drift"))
    assert noisy.reopened > 0
    assert not noisy.is_lost
    assert (quiet.reopened, quiet.is_missed) == (0, False)
    assert quiet.ended > 5


def test_probes_end_more_load_and_still_find_what_is_within_5_percent() -> None:
    names = ("dyno, racing", "dyno, racing and probes")
    racing, probes = ([run(BY_NAME["drift"], name, seed) for seed in range(4)] for name in names)
    assert sum(each.minutes for each in probes) < sum(each.minutes for each in racing)
    assert max(each.loss_frac for each in (*probes, *racing)) <= 0.05
    assert not any(each.is_missed for each in probes)


def test_a_tool_that_is_not_installed_is_left_out_with_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_tuner, "find_spec", lambda name: None if name == "smac" else name)
    why = "needs smac, not installed: pip install -e '.[bench-tuner]'"
    assert left_out() == {name: f"{name} {why}" for name in ("SMAC3", "SMAC3, in parts")}
    text = table([row(BY_NAME["tie"], "grid", 1)], tuple(left_out().values()))
    assert f"Left out: SMAC3 {why}; SMAC3, in parts {why}." in text


def test_the_table_separates_what_each_part_saves_and_holds_stated_chances_against_the_truth() -> None:
    made = dict(row(BY_NAME["tie"], "grid", 1))
    minutes = {"random": 16.0, "GP, all trials": 16.0, "dyno (GP, ends when enough)": 15.0, "dyno, racing": 12.0}
    minutes["dyno, racing and probes"] = 11.0
    chances = [(0.2, False), (0.3, True), (0.25, None), (0.05, True), (0.45, False)]
    rows = [
        {**made, "contestant": name, "mean_minutes": each, "judged_each_min": 1.0, "judged_once_min": 0.2}
        for name, each in minutes.items()
    ]
    text = table([{**one, "mean_launches": 30.0, "chances": chances} for one in rows])
    assert "| tie | 17.0 | 0.8 (5%) | 1.0 (6%) | 3.0 (18%) | 1.0 (6%) | 10.0 of 51.0 (20%) | 0.0 points |" in text
    assert "| 10 | 20 | 67% | 8.3% |" in text
    assert "Of 5 searches by racing that state a chance, 3 state 10 to 40 %. In 1 of these both are truly equal" in text
    assert "which state 25% on average, the runner-up is truly better in 1: 50%, 95 % interval 9% to 91%." in text


def test_within_half_of_the_baseline_s_clock_the_search_ends_and_says_how_good_it_is() -> None:
    law = BY_NAME["drift"]
    whole, half = (run(law, name, 0) for name in ("TPE, all trials", "dyno, half the clock"))
    assert half.minutes + half.judged_once_min <= whole.judging_min / 2 + LONGEST_MIN
    assert half.launches < whole.launches
    text = table([row(law, name, 2) for name in ("TPE, all trials", "dyno, half the clock")])
    assert "## Within half of the baseline's clock" in text
    assert "| drift | 17.3 | " in text


LONGEST_MIN = 0.55
"""Of one trial of a law: what may be under way when half of the clock is over."""


def test_counts_are_pooled_over_laws_and_landscapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = row(BY_NAME["tie"], "dyno, racing", 2)
    recorded = {**made, "law": "recorded", "missed": 1, "lost_unmeasured": 1, "lost_on_redeployment": 1}
    for name, one in {"laws": {**made, "missed": 2}, "landscape": recorded}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.json").write_text(json.dumps([one]))
    folders = [str(tmp_path / name) for name in ("laws", "landscape")]
    monkeypatch.setattr("sys.argv", ["bench_tuner", "--pool", *folders, "--out", str(tmp_path)])
    bench_tuner.main()
    text = (tmp_path / "pooled.md").read_text()
    assert "tie, recorded. Written by" in text
    assert "| dyno, racing | 4 | 3 | 1 | 1 of 2 (9.5% to 90.5%) |" in text
    assert "| dyno, racing and probes | 0 | 0 | 0 | not recorded |" in text
    monkeypatch.setattr("sys.argv", ["bench_tuner", "--pool", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        bench_tuner.main()
