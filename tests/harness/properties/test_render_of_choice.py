"""What must hold for any run and any file, tried on many."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.choose.recommendation import choose
from harness.properties.lint.findings import lint
from harness.records import Trial
from tests.harness.choose.runs import candidate, failed, metric, run_of, trial

GOALS = [{"metric": "latency_p50_ms", "goal": "minimize"}, {"metric": "throughput_rps", "goal": "maximize"}]


@st.composite
def trials(draw: st.DrawFn) -> list[Trial]:
    made = []
    for number in range(1, draw(st.integers(1, 7)) + 1):
        what = candidate(
            draw(st.sampled_from(["transformers", "ctranslate2"])),
            batch_size=draw(st.sampled_from([1, 4])),
            workers=draw(st.sampled_from([1, 2])),
        )
        if draw(st.integers(0, 5)) == 0:
            made.append(failed(number, what))
            continue
        value, width = draw(st.integers(10, 30)), draw(st.integers(0, 4))
        rate = {"throughput_rps": metric(draw(st.integers(50, 60)), unit="requests/s")}
        broken = ("too slow",) if draw(st.integers(0, 5)) == 0 else ()
        made.append(trial(number, what, (value, value - width, value + width), metrics=rate, violations=broken))
    return [*made, trial(99, candidate("onnxruntime"), (35.0, 34.0, 36.0))]  # something is always feasible


@settings(max_examples=150, deadline=None)
@given(trials(), st.sampled_from([GOALS[:1], GOALS]), st.randoms(use_true_random=False))
def test_the_choice_is_feasible_complete_and_blind_to_order(
    made: list[Trial], goals: list[object], rng: object
) -> None:
    found = choose(run_of(*made, objectives=goals))
    chosen = found.trial.candidate
    assert all(one.is_feasible for one in made if one.candidate == chosen)
    named = {loss.candidate.candidate_id for loss in found.losses}
    assert named == {one.candidate.candidate_id for one in made} - {chosen.candidate_id}
    assert all(loss.why for loss in found.losses)
    shuffled = list(made)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(run_of(*shuffled, objectives=goals)).trial.candidate == chosen


@settings(max_examples=150, deadline=None)
@given(trials())
def test_nothing_feasible_is_certainly_better_than_the_choice(made: list[Trial]) -> None:
    found = choose(run_of(*made))
    assert found.trial.summary is not None
    best = found.trial.summary.metrics["latency_p50_ms"]
    single = [one for one in made if sum(o.candidate == one.candidate for o in made) == 1]
    if found.trial not in single:
        return
    for one in single:
        if one.is_feasible and one.summary is not None:
            other = one.summary.metrics["latency_p50_ms"]
            assert other.high is not None
            assert best.low is not None
            assert other.high >= best.low


KEYS = st.sampled_from(["engine", "option.dtype", "batch_size", "option.rolling_batch", "x y", "minWorkers", ""])
VALUES = st.text(st.sampled_from("aZ0 4\\#!=:\t-é\U0001f600u"), max_size=12)
LINES = st.tuples(KEYS, st.sampled_from(["=", ":", " ", ""]), VALUES).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES, max_size=6).map("\n".join), st.sampled_from(["0.19.0", "0.27.0", "0.36.0", "dynamometer-0.1"]))
def test_the_linter_answers_any_text_with_lines_that_exist(text: str, container: str) -> None:
    lines = text.count("\n") + text.count("\r") + 1
    for finding in lint(text, container):
        assert 0 <= finding.line <= lines
        assert finding.message
