"""Every sentence of ours is replaced, and every decision stays: choice, marks, verdict, verification, search, file.

Two replacements: words that mean nothing, and words that would lead astray whoever still looked for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest

from engines.sagemaker.catalogue import Price
from engines.serving_properties.java_text import parse_properties
from harness.choose.recommendation import choose
from harness.cost import spending
from harness.cost.price import price_of
from harness.errors import MeasurementInvalid
from harness.gate.gate import gate
from harness.gate.rules import Rules
from harness.properties.render import PROPERTIES, Source, render
from harness.properties.write import Written
from harness.recommendation import Recommendation
from harness.records import Candidate, Doubt, DoubtKind, Metric, Trial
from harness.report.content import result_table
from harness.report.content.result_table import report_table
from harness.scenario.cost import Cost
from harness.scenario.schema import Scenario
from harness.store.codec import from_json, to_json
from harness.store.reader import Run, read_run
from harness.trial.bench import Bench, spec_of
from harness.trial.verify import measurements, verify_written
from harness.tune.implausible import implausible
from tests.harness.choose.runs import candidate, failed, metric, run_of, trial
from tests.older_versions.written_then import AFTER, BEFORE, BUNDLED, HALFWAY, LAWS

Words = Callable[[str], str]

PROSE = ("reason", "notes", "violations", "distrust", "estimator", "note", "origin", "why")
"""Fields of our records that hold sentences."""
ASTRAY = (
    "other processes used, the load generator took, requests left; 3 of 3 requests failed (p99); not launched: out of "
    "memory; a tie; the scenario's; /converted model /x, ready in; order-statistic interval; not reproduced"
)


def _meaningless(text: str) -> str:
    """The same for the same sentence, so that counting distinct ones gives the same count."""
    return "blurb " + "".join(chr(ord("a") + ord(letter) % 26) for letter in text) if text else ""


def _astray(text: str) -> str:
    return f"{ASTRAY} ({_meaningless(text)}), 95 % order-statistic interval" if text else ""


def _reworded(words: Words, fields: Any, key: str = "") -> Any:
    if isinstance(fields, dict):
        return {name: _reworded(words, value, name) for name, value in fields.items()}
    if isinstance(fields, list):
        return [_reworded(words, value, key) for value in fields]
    return words(fields) if key in PROSE and isinstance(fields, str) else fields


def _trial(words: Words, one: Trial) -> Trial:
    return from_json(Trial, _reworded(words, to_json(one)))


def _run(words: Words, run: Run) -> Run:
    return replace(run, trials=tuple(_trial(words, each) for each in run.trials))


def _every_kind() -> Run:
    """Two close candidates for each kind of doubt, and each way to lose."""
    trials = []
    for place, kind in enumerate(get_args(DoubtKind)):
        doubt = Doubt(kind=kind, sentence=f"a sentence about {kind}, {place} of them")
        trials.append(trial(len(trials) + 1, candidate(batch_size=place + 2), (19.0, 18.9, 19.1), doubts=(doubt,)))
    wide = metric(19.05, 18.0, 20.0)
    unproven = replace(metric(19.0, None, None), method="order_statistic", estimator="p90")
    trials += [
        trial(90, candidate("ctranslate2"), (20.0, 19.9, 20.1), metrics={"latency_p90_ms": unproven}),
        trial(91, candidate("ctranslate2", workers=2), (18.0, 17.0, 21.0), metrics={"latency_p50_ms": wide}),
        trial(92, candidate("ctranslate2", workers=3), (9.0, 8.9, 9.1), violations=("latency_p99_ms 900 ms",)),
        failed(93, candidate("onnxruntime", workers=2), "out_of_memory", "the kernel ended it"),
        failed(94, candidate("onnxruntime", workers=3), "skipped", "trial 93 ran out of memory"),
        failed(95, candidate("openvino"), "infeasible", "no such package"),
        failed(96, candidate("openvino", workers=2), "skipped", "2 of 2 failed"),
    ]
    return run_of(*trials)


def _of_each_kind(kind: DoubtKind) -> Run:
    doubt = Doubt(kind=kind, sentence="something about it")
    return run_of(
        trial(1, candidate(batch_size=2), (19.0, 18.9, 19.1), doubts=(doubt,)),
        trial(2, candidate(), (20.0, 19.9, 20.1)),
    )


RUNS: dict[str, Callable[[], Run]] = {
    **{path.parent.name: partial(read_run, path) for path in (LAWS, HALFWAY, BUNDLED)},
    "every kind": _every_kind,
    **{f"doubt {kind}": partial(_of_each_kind, kind) for kind in get_args(DoubtKind)},
}

both = pytest.mark.parametrize("words", [_meaningless, _astray], ids=["meaningless", "astray"])
every_run = pytest.mark.parametrize("made", RUNS.values(), ids=list(RUNS))


def _choice(run: Run) -> Any:
    found = choose(run)
    return (
        found.trial.trial_id,
        found.runner_up.trial_id if found.runner_up is not None else None,
        found.is_tie,
        [(loss.trial_id, loss.kind) for loss in found.losses],
    )


@both
@every_run
def test_the_choice_and_why_each_other_lost(made: Callable[[], Run], words: Words) -> None:
    run = made()
    assert _choice(_run(words, run)) == _choice(run)


@both
@every_run
def test_the_marks_and_the_number_of_notes(
    made: Callable[[], Run], words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made()
    then = report_table(run)

    def _choose(of: Run) -> Recommendation:
        found = choose(of)
        return replace(found, losses=tuple(replace(loss, why=words(loss.why)) for loss in found.losses))

    monkeypatch.setattr(result_table, "choose", _choose)
    now = report_table(_run(words, run))
    assert [(row.trial.trial_id, row.mark) for row in now.rows] == [(row.trial.trial_id, row.mark) for row in then.rows]
    assert [each.outcome for each in now.failures] == [each.outcome for each in then.failures]
    assert len(now.notes) == len(then.notes)


@both
def test_the_gate_s_verdict(words: Words) -> None:
    before, after = read_run(BEFORE), read_run(AFTER)
    then, now = gate([before], after, Rules()), gate([_run(words, before)], _run(words, after), Rules())
    assert now.verdict == then.verdict
    assert [each.verdict for each in now.judged] == [each.verdict for each in then.judged]
    assert [each.verdict for each in now.findings] == [each.verdict for each in then.findings]
    assert len(now.notes) == len(then.notes)


WRITTEN = Written(container="dynamometer-0.1", paths=(Path("serving.properties"),), warnings=())


class _Bench:
    def __init__(self, again: Trial) -> None:
        self.again = again
        scenario = Scenario.model_validate({"name": "s", "space": [{"engine": "fake"}]})
        self.inputs = SimpleNamespace(scenario=scenario)

    def run_file(self, properties_path: Path, candidate: Candidate, number: int) -> Trial:
        return self.again


@both
@every_run
def test_the_verification(made: Callable[[], Run], words: Words) -> None:
    """Of a second measurement half as fast: whether the advice for a disturbed machine is given."""

    def _verified(run: Run) -> tuple[bool, bool]:
        promised = measurements(run.trials, choose(run))
        assert promised[-1].summary is not None
        slower: dict[str, Metric] = {
            name: replace(each, value=each.value * 2, low=None, high=None)
            for name, each in promised[-1].summary.metrics.items()
        }
        again = replace(promised[-1], summary=replace(promised[-1].summary, metrics=slower))
        found = verify_written(cast(Bench, _Bench(again)), promised, WRITTEN, 99, lambda text: None)
        return found.is_inside, "quiet the machine" in found.sentence

    run = made()
    assert _verified(_run(words, run)) == _verified(run)


@both
@pytest.mark.parametrize("made", [RUNS["laws"], _every_kind], ids=["laws", "every kind"])
def test_which_candidates_are_not_launched(made: Callable[[], Run], words: Words) -> None:
    run = made()
    others = [replace(each.candidate, workers=9) for each in run.trials]
    then = [implausible(each, run.trials) is None for each in others]
    assert set(then) == {True, False}
    assert [implausible(each, _run(words, run).trials) is None for each in others] == then


@both
def test_a_run_in_which_nothing_answered(words: Words) -> None:
    silent = {"error_frac": metric(1.0, unit="frac")}
    doubt = Doubt(kind="failed_requests", sentence="all of them failed: HTTP 404")
    run = run_of(trial(1, candidate(), (20, 20, 20), metrics=silent, doubts=(doubt,), violations=("no value",)))
    with pytest.raises(MeasurementInvalid, match=f"answered a request.*: {words(doubt.sentence)[:12]}"):
        choose(_run(words, run))


@both
def test_whose_price_an_endpoint_is_told(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = candidate("sagemaker", options={"instance": "ml.g5.12xlarge", "hosts": "lmi"})
    spec = spec_of(endpoint, Path("/model"))
    costs = [Cost(max_cost_usd=2.0), Cost(max_cost_usd=2.0, prices={"ml.g5.12xlarge": 6.0})]
    then = [spending.Spending(cost, load_s=15.0).limited(spec, endpoint) for cost in costs]
    assert "usd_per_hour" in then[1].options
    assert "usd_per_hour" not in then[0].options

    def _priced(cost: Cost | None, of: Candidate) -> Price | None:
        price = price_of(cost, of)
        return replace(price, origin=words(price.origin)) if price is not None else None

    monkeypatch.setattr(spending, "price_of", _priced)
    assert [spending.Spending(cost, load_s=15.0).limited(spec, endpoint) for cost in costs] == then


@both
def test_the_written_file(words: Words) -> None:
    one = trial(1, candidate("ctranslate2"), (20, 19, 21), notes=("2 threads", "weights: 3 MB/s"), converted_dir="/c/1")
    manifest = run_of().manifest

    def _written(of: Trial) -> tuple[dict[str, str], list[str]]:
        text = render(Source(run_name="r", manifest=manifest, trial=of), "0.36.0")[PROPERTIES]
        return parse_properties(text), [line for line in text.splitlines() if "measuring machine" in line]

    assert _written(_trial(words, one)) == _written(one)
