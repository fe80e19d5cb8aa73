"""The choice over stored trials: best value, ties, the front, what rules a candidate out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.choose.recommendation import choose
from harness.errors import MeasurementInvalid
from harness.recommendation import Loss, Recommendation
from harness.records import Candidate, Doubt
from tests.harness.choose.runs import candidate, ended, failed, metric, run_of, trial

TWO_GOALS = [
    {"metric": "latency_p50_ms", "goal": "minimize"},
    {"metric": "throughput_rps", "goal": "maximize"},
]


def _loss(recommendation: Recommendation, what: Candidate) -> Loss:
    (loss,) = [loss for loss in recommendation.losses if loss.candidate == what]
    return loss


def _why(recommendation: Recommendation, what: Candidate) -> str:
    return _loss(recommendation, what).why


def test_the_best_value_wins_and_the_others_hear_by_how_much() -> None:
    fast, slow = candidate("ctranslate2"), candidate("transformers")
    found = choose(run_of(trial(1, slow, (24.2, 24.0, 24.4)), trial(2, fast, (20.0, 19.8, 20.2))))
    assert found.trial.candidate == fast
    assert found.runner_up is not None
    assert found.runner_up.candidate == slow
    assert not found.is_tie
    assert _loss(found, slow).kind == "worse"
    assert "slower by 4.2 ms (+21.0 %)" in _why(found, slow)
    assert "latency_p99_ms 40 of at most 500 ms" in found.margin


def test_of_a_tie_the_cheaper_one_wins_although_its_value_is_worse() -> None:
    two, one = candidate(workers=2), candidate(workers=1)
    found = choose(run_of(trial(1, two, (20.0, 19.0, 21.0)), trial(2, one, (20.5, 19.5, 21.5))))
    assert found.trial.candidate == one
    assert found.is_tie
    assert "a tie" in found.margin
    assert _loss(found, two).kind == "tie"
    assert "it needs 2 workers instead of 1" in _why(found, two)


def test_a_cheaper_one_that_is_far_behind_is_not_taken_for_wide_intervals() -> None:
    """Ten times the latency, and yet the intervals meet: a busy machine and few requests."""
    two, one = candidate(workers=2), candidate(workers=1)
    found = choose(run_of(trial(1, two, (52.0, 20.0, 300.0)), trial(2, one, (548.0, 200.0, 900.0))))
    assert found.trial.candidate == two
    assert found.is_tie
    assert "the cheapest of which within 10 % of the best one was taken" in found.margin
    assert _loss(found, one).kind == "tie"
    assert "more than 10 % behind the best of the tie" in _why(found, one)


def test_a_wide_interval_of_the_best_does_not_let_a_surely_worse_one_win() -> None:
    wide, narrow, cheap = candidate(workers=2, batch_size=8), candidate(workers=2), candidate(workers=1)
    found = choose(
        run_of(
            trial(1, wide, (10.0, 6.0, 14.0)), trial(2, narrow, (11.0, 11.0, 11.0)), trial(3, cheap, (13.0, 13.0, 13.0))
        )
    )
    assert found.trial.candidate in (wide, narrow)
    assert "others are surely better" in _why(found, cheap) or "slower by" in _why(found, cheap)


def test_a_tie_of_equal_workers_goes_to_less_memory() -> None:
    big, small = candidate("transformers"), candidate("onnxruntime")
    heavy = {"peak_memory_mib": metric(900.0, unit="MiB")}
    found = choose(run_of(trial(1, big, (20.0, 19.0, 21.0), metrics=heavy), trial(2, small, (20.4, 19.4, 21.4))))
    assert found.trial.candidate == small
    assert "600 MiB more memory" in _why(found, big)


def test_values_without_intervals_tie_only_when_equal() -> None:
    first, second = candidate(batch_size=1), candidate(batch_size=2)
    bare = {"latency_p50_ms": metric(20.1)}
    found = choose(run_of(trial(1, first, (1, 1, 1), metrics={"latency_p50_ms": metric(20.0)}),
                          trial(2, second, (1, 1, 1), metrics=bare)))  # fmt: skip
    assert found.trial.candidate == first
    assert not found.is_tie


def test_a_broken_constraint_and_a_failure_rule_out() -> None:
    good, broke, died = candidate(batch_size=1), candidate(batch_size=4), candidate(batch_size=8)
    found = choose(
        run_of(
            trial(1, broke, (10.0, 9.9, 10.1), violations=("latency_p99_ms 612 ms, at most 500 wanted",)),
            failed(2, died, "out_of_memory", "killed\nby the kernel"),
            trial(3, good, (20.0, 19.8, 20.2)),
        )
    )
    assert found.trial.candidate == good
    assert [_loss(found, each).kind for each in (broke, died)] == ["broken", "failed"]
    assert _why(found, broke) == "broke a constraint: latency_p99_ms 612 ms, at most 500 wanted"
    assert _why(found, died) == "out_of_memory: killed by the kernel"
    assert found.runner_up is None
    assert "the only feasible candidate" in found.margin


def test_one_that_ended_early_is_never_recommended_and_its_bound_is_the_reason() -> None:
    """Even where its estimate is the best number of the run: the one it raced broke down when it was measured again."""
    best = trial(1, candidate(), (20.0, 19.8, 20.6))
    lost = ended(2, candidate(batch_size=4), best, 0.3)
    slow = trial(3, candidate(batch_size=8), (90.0, 89.0, 91.0))
    found = choose(run_of(best, lost))
    assert found.trial == best
    assert found.runner_up is None
    assert [(loss.kind, loss.why) for loss in found.losses] == [("ended_early", "ended early: it surely loses")]
    assert "the only feasible candidate; surely worse, so ended early: 1" in found.margin
    assert choose(run_of(lost, slow)).trial == slow
    with pytest.raises(MeasurementInvalid, match="ended_early"):
        choose(run_of(lost))


def test_a_probed_one_is_never_recommended_and_said_to_be_probed() -> None:
    best = trial(1, candidate(), (20.0, 19.8, 20.6))
    lost = ended(2, candidate(batch_size=4), best, 0.3)
    assert lost.race is not None
    probed = replace(lost, race=replace(lost.race, is_probe=True))
    found = choose(run_of(best, probed))
    assert found.trial == best
    assert [(loss.kind, loss.why) for loss in found.losses] == [("ended_early", "probed: it surely loses")]
    assert "the only feasible candidate; not promising, so probed alone: 1" in found.margin


def test_one_that_a_broken_constraint_ended_lost_by_that_constraint() -> None:
    best, why = trial(1, candidate(), (20.0, 19.8, 20.6)), "error_frac surely above 0"
    broken = replace(trial(2, candidate(batch_size=4), (9.0, 8.9, 9.1)), outcome="ended_early", violations=(why,))
    assert [(loss.kind, loss.why) for loss in choose(run_of(best, broken)).losses] == [
        ("broken", f"broke a constraint: {why}")
    ]
    with pytest.raises(MeasurementInvalid, match=f"which broke {why}; relax that constraint"):
        choose(run_of(broken))


def test_repetitions_are_pooled_and_widen_the_interval() -> None:
    lucky, steady = candidate(batch_size=1), candidate(batch_size=4)
    found = choose(
        run_of(
            trial(1, lucky, (18.0, 17.9, 18.1)),
            trial(2, steady, (20.0, 19.9, 20.1)),
            trial(3, lucky, (24.0, 23.9, 24.1)),
            trial(4, steady, (20.2, 20.1, 20.3)),
        )
    )
    assert found.trial.candidate in (lucky, steady)
    assert found.is_tie  # 17.9 .. 24.1 holds 19.9 .. 20.3
    assert len(found.losses) == 1


def test_a_candidate_that_failed_in_one_repetition_is_not_recommended() -> None:
    flaky, steady = candidate(batch_size=1), candidate(batch_size=4)
    found = choose(
        run_of(trial(1, flaky, (10.0, 9.9, 10.1)), trial(2, steady, (20.0, 19.9, 20.1)), failed(3, flaky, "crashed"))
    )
    assert found.trial.candidate == steady
    assert "crashed in one of 2 measurements" in _why(found, flaky)


def test_an_interrupted_repetition_says_nothing_about_its_candidate() -> None:
    best, other = candidate(batch_size=1), candidate(batch_size=4)
    found = choose(
        run_of(trial(1, best, (10.0, 9.9, 10.1)), trial(2, other, (20.0, 19.9, 20.1)), failed(3, best, "interrupted"))
    )
    assert found.trial.candidate == best


def test_doubtful_numbers_must_win_by_more_than_ten_percent() -> None:
    doubtful, sound = candidate(batch_size=1), candidate(batch_size=4)
    short = Doubt(kind="short_window", sentence="measured for 0.40 s only")
    close = choose(run_of(trial(1, doubtful, (19.0, 18.9, 19.1), doubts=(short,)), trial(2, sound, (20.0, 19.9, 20.1))))
    assert close.trial.candidate == sound
    assert "in doubt" in _why(close, doubtful)
    far = choose(run_of(trial(1, doubtful, (10.0, 9.9, 10.1), doubts=(short,)), trial(2, sound, (20.0, 19.9, 20.1))))
    assert far.trial.candidate == doubtful
    assert short.sentence in far.margin


def test_a_disturbance_that_can_only_slow_costs_nothing() -> None:
    disturbed, sound = candidate(batch_size=1), candidate(batch_size=4)
    busy = Doubt(kind="other_cpu", sentence="other processes used 14% of the machine's CPU")
    found = choose(run_of(trial(1, disturbed, (19.0, 18.9, 19.1), doubts=(busy,)), trial(2, sound, (20.0, 19.9, 20.1))))
    assert found.trial.candidate == disturbed
    assert "disturbed while measured" in found.margin


def test_an_unbounded_p99_is_no_doubt_when_the_slowest_request_keeps_the_limit() -> None:
    few = Doubt(kind="few_samples", sentence="200 answered requests: a 95 % interval for p99 needs 368")
    one, other = candidate(batch_size=1), candidate(batch_size=4)
    found = choose(run_of(trial(1, one, (19.5, 19.4, 19.6), doubts=(few,)), trial(2, other, (20.0, 19.9, 20.1))))
    assert found.trial.candidate == one
    limited = {"latency_p99_ms": {"min": None, "max": 50.0}}
    strict = choose(
        run_of(
            trial(1, one, (19.5, 19.4, 19.6), doubts=(few,)),
            trial(2, other, (20.0, 19.9, 20.1)),
            constraints=limited,
        )
    )
    assert strict.trial.candidate == other


def test_several_objectives_take_the_knee_of_the_front() -> None:
    quick, knee, wide, worse = (candidate(batch_size=size) for size in (1, 2, 4, 8))

    def at(number: int, what, p50: float, rps: float):  # type: ignore[no-untyped-def]
        return trial(number, what, (p50, p50, p50), metrics={"throughput_rps": metric(rps, unit="requests/s")})

    found = choose(
        run_of(at(1, quick, 10, 50), at(2, knee, 12, 95), at(3, wide, 40, 100), at(4, worse, 41, 90),
               objectives=TWO_GOALS)
    )  # fmt: skip
    assert found.trial.candidate == knee
    assert "knee of a Pareto front of 3" in found.margin
    assert [_loss(found, each).kind for each in (wide, worse)] == ["off_knee", "dominated"]
    assert "further from the ideal corner" in _why(found, wide)
    assert _why(found, worse).startswith("dominated by the chosen one")


def test_on_the_front_a_difference_within_the_noise_is_none() -> None:
    one, many = candidate(batch_size=2), candidate(batch_size=8, workers=2)

    def at(number: int, what, p50: float, rps: float):  # type: ignore[no-untyped-def]
        rate = metric(rps, rps - 5, rps + 5, unit="requests/s")
        return trial(number, what, (p50, p50 - 1, p50 + 1), metrics={"throughput_rps": rate})

    clear = choose(run_of(at(1, many, 40, 102), at(2, one, 20, 100), objectives=TWO_GOALS))
    assert clear.trial.candidate == one
    assert not clear.is_tie
    tie = choose(run_of(at(1, many, 20, 102), at(2, one, 20.5, 100), objectives=TWO_GOALS))
    assert tie.trial.candidate == one
    assert tie.is_tie
    assert _loss(tie, many).kind == "tie"
    assert "it needs 2 workers instead of 1" in _why(tie, many)


def test_nothing_feasible_names_the_nearest_and_what_it_broke() -> None:
    near, far = candidate(batch_size=1), candidate(batch_size=4)
    over = {"latency_p99_ms": metric(510.0)}
    way_over = {"latency_p99_ms": metric(900.0)}
    run = run_of(
        trial(1, far, (20, 20, 20), metrics=way_over, violations=("latency_p99_ms 900 ms > 500",)),
        trial(2, near, (30, 30, 30), metrics=over, violations=("latency_p99_ms 510 ms > 500",)),
    )
    with pytest.raises(MeasurementInvalid, match=r"nearest: transformers fp32, batch 1, .*510 ms > 500"):
        choose(run)


def test_nothing_that_ran_counts_the_outcomes() -> None:
    with pytest.raises(MeasurementInvalid, match=r"none of 2 candidates finished \(2 launch_failed\)"):
        choose(run_of(failed(1, candidate(batch_size=1)), failed(2, candidate(batch_size=2))))


def test_the_log_of_a_failure_does_not_make_its_sentence_long() -> None:
    log = "\n".join(f"  File {number}, line 1" for number in range(100))
    died = replace(failed(1, candidate()), reason=f"vllm: no module; its log ends:\n{log}")
    with pytest.raises(MeasurementInvalid) as caught:
        choose(run_of(died))
    message = str(caught.value)
    assert "vllm: no module; its log ends: File 0, line 1 File 1" in message
    assert (len(message.splitlines()), len(message) < 600) == (1, True)


def test_candidates_that_answered_nothing_are_no_matter_of_constraints() -> None:
    failed_all = Doubt(kind="failed_requests", sentence="24 of 24 failed, for instance: HTTP 404: no such path")
    silent = trial(
        1, candidate(), (20, 20, 20), metrics={"error_frac": metric(1.0, unit="frac")}, doubts=(failed_all,),
        violations=("latency_p50_ms was not measured, expected a value",),
    )  # fmt: skip
    with pytest.raises(MeasurementInvalid, match=r"none of 1 candidates answered a request.*HTTP 404: no such path;"):
        choose(run_of(silent))


def test_an_empty_run_says_so() -> None:
    with pytest.raises(MeasurementInvalid, match="holds no trial"):
        choose(run_of())


MARKED = [{"engine": "transformers", "incumbent": False}, {"engine": "transformers", "incumbent": True}]


@pytest.mark.parametrize(
    ("before", "gain"),
    [
        ((24.0, 23.8, 24.2), "latency_p50_ms 20 ms [19.8, 20.2] against 24 ms [23.8, 24.2] (-16.7 %), the incumbent ("),
        ((20.3, 19.9, 20.6), "cannot tell, the intervals overlap: latency_p50_ms 20 ms"),
        ((18.0, 17.9, 18.1), "none: the incumbent is the best of what was measured"),
    ],
)
def test_the_gain_is_over_the_block_that_is_marked_as_the_incumbent(
    before: tuple[float, float, float], gain: str
) -> None:
    today, other = replace(candidate("transformers", workers=2), block=1), candidate("ctranslate2")
    trials = (trial(1, today, before), trial(2, other, (20.0, 19.8, 20.2)))
    assert choose(run_of(*trials, space=MARKED)).gain.startswith(gain)
    assert choose(run_of(*trials)).gain == ""


def test_an_incumbent_without_a_measurement_gives_no_gain() -> None:
    today, other = replace(candidate("transformers"), block=1), candidate("ctranslate2")
    found = choose(run_of(failed(1, today), trial(2, other, (20.0, 19.8, 20.2)), space=MARKED))
    assert found.gain == "unknown: the incumbent (transformers fp32, batch 1, 1 worker) gave no measurement: " + (
        "launch_failed: it would not start"
    )
    assert choose(run_of(trial(2, other, (20.0, 19.8, 20.2)), space=MARKED)).gain == (
        "unknown: the incumbent was not measured"
    )
    slow = trial(3, today, (30.0, 29.0, 31.0), violations=("latency_p99_ms 600 ms, expected at most 500 ms",))
    assert (
        "broke a constraint: latency_p99_ms 600"
        in choose(run_of(slow, trial(2, other, (20.0, 19.8, 20.2)), space=MARKED)).gain
    )
