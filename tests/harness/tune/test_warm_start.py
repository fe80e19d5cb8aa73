"""What earlier runs suggest: the order of the first proposals on landscapes whose best is known; what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from engines.models.checkpoint.kind import kind_of
from engines.models.random_weights.shapes import SHAPES
from harness.errors import DynoError, UsageError
from harness.records import Candidate, Metric, Trial
from harness.scenario.schema import Scenario
from harness.store.formats import RunManifest
from harness.store.writer import RunWriter
from harness.tune.loop import search
from harness.tune.sampler import Proposals
from harness.tune.warm_start import Hint, Place, prior_order, read_hints
from tests.harness.tune.landscape import Bench, best_latency_ms, latency_ms, plan, resolved, scenario, trial_of

OF = scenario({"trials": 12})
PLAN = plan(OF)
MACHINE = {"cpu_model": "made", "cpu_flags": ["avx2"]}
MOST = 40
"""Trials of a search here: the last ones of 60 took most of the time, and change no median."""
HERE = Place(model=resolved(OF).model.value, kind=None, machine=MACHINE)


def _earlier(seed: int, count: int = 24) -> list[Trial]:
    """Random candidates on another machine: everything takes 2.2 times as long, each candidate 10 % more or less."""
    rng = np.random.default_rng(seed)
    trials = []
    for number, index in enumerate(rng.permutation(PLAN.size)[:count], 1):
        trials.append(trial_of(PLAN.candidates[index], number, OF, noise=2.2 * math.exp(rng.normal(0, 0.1))))
    return trials


def _searched(seed: int) -> list[Trial]:
    """A search of 24 trials on that other machine."""
    of = scenario({"trials": 24, "seed": 100 + seed})
    proposals, trials = Proposals(PLAN, of), list[Trial]()
    rng = np.random.default_rng(seed)
    while len(trials) < 24 and (candidate := proposals.next()) is not None:
        trials.append(trial_of(candidate, len(trials) + 1, of, noise=2.2 * math.exp(rng.normal(0, 0.1))))
        proposals.learn(trials[-1])
    return trials


def _stored(folder: Path, trials: Sequence[Trial], of: Scenario = OF, machine: Any = MACHINE) -> Path:
    manifest = RunManifest(scenario=resolved(of).as_dict(), digest=resolved(of).digest, machine=machine)
    with RunWriter.create(folder, manifest) as writer:
        for trial in trials:
            writer.append_trial(trial)
        return writer.layout.root


def _order(folder: Path, trials: Sequence[Trial]) -> tuple[Candidate, ...]:
    return prior_order(PLAN, read_hints([_stored(folder, trials)], resolved(OF), HERE, PLAN), trials=12)


def _until_near(first: Sequence[Candidate], seed: int) -> int:
    """Trials until a feasible candidate within 10 % of the best was measured, MOST where it takes more."""
    of = scenario({"trials": 60, "seed": seed})
    proposals, best = Proposals(PLAN, of, first), best_latency_ms(of)
    for number in range(1, MOST):
        candidate = proposals.next()
        assert candidate is not None
        trial = trial_of(candidate, number, of)
        if trial.is_feasible and latency_ms(candidate) <= 1.1 * best:
            return number
        proposals.learn(trial)
    return MOST


def test_a_search_on_another_machine_leads_to_the_best_sooner(tmp_path: Path) -> None:
    with_prior = [_until_near(_order(tmp_path / str(seed), _searched(seed)), seed) for seed in range(4)]
    without = [_until_near((), seed) for seed in range(4)]
    assert median(with_prior) <= 0.5 * median(without), (with_prior, without)


def test_a_prior_that_is_wrong_removes_nothing(tmp_path: Path) -> None:
    """Everything is still proposed, each candidate once."""
    of = scenario({"trials": 200}, space=[{"engine": "ctranslate2", "workers": [1, 2, 4], "batch_size": [1, 4, 8]}])
    small = plan(of)
    hints = [Hint(candidate=each, cost=-latency_ms(each) / 100, noise=1.0) for each in small.candidates]
    first = prior_order(small, hints, trials=9)
    assert first[0] == max(small.candidates, key=latency_ms)
    proposals, seen = Proposals(small, of, first), []
    while (candidate := proposals.next()) is not None:
        seen.append(candidate.candidate_id)
        proposals.learn(trial_of(candidate, len(seen), of))
    assert sorted(seen) == sorted(each.candidate_id for each in small.candidates)


def test_the_prior_comes_first_and_every_block_s_default_after_it(tmp_path: Path) -> None:
    first = _order(tmp_path / "runs", _earlier(1))
    assert len(first) == 4, "a third of twelve trials"
    bench = Bench(OF, tmp_path / "study.db")
    context = replace(bench.context(), first=first)
    result = search(context)
    assert tuple(bench.launched[:4]) == first
    assert {block.default.candidate_id for block in PLAN.blocks} <= {each.candidate_id for each in bench.launched[:7]}
    assert all(trial.phase_s for trial in result.trials), "each was measured here, none taken from the earlier run"


def test_failures_and_broken_constraints_come_last(tmp_path: Path) -> None:
    good, bad = PLAN.candidates[0], PLAN.candidates[1]
    hints = [Hint(candidate=good, cost=0.0, noise=1.0), Hint(candidate=bad, cost=2.0, noise=1.0)]
    order = prior_order(PLAN, hints, trials=3 * PLAN.size)
    assert order.index(good) < order.index(bad)
    failed = Trial(trial_id="t", number=2, candidate=bad, outcome="crashed")
    root = _stored(tmp_path / "runs", [trial_of(good, 1, OF), failed])
    costs = [hint.cost for hint in read_hints([root], resolved(OF), HERE, PLAN)]
    assert costs == pytest.approx([0.0, math.log(2.0)])


@pytest.mark.parametrize(
    ("model", "machine", "noise"),
    [(HERE.model, MACHINE, 1.0), ("/another", MACHINE, 4.0), (HERE.model, {}, 4.0), ("/another", {}, 16.0)],
)
def test_the_same_model_and_machine_weigh_more(tmp_path: Path, model: str, machine: Any, noise: float) -> None:
    root = _stored(tmp_path / "runs", _earlier(1, count=3))
    here = Place(model=model, kind=None, machine=machine)
    assert {hint.noise for hint in read_hints([root], resolved(OF), here, PLAN)} == {noise}


def test_of_two_that_disagree_the_nearer_run_is_believed() -> None:
    one, two = PLAN.candidates[0], PLAN.candidates[-1]
    near = [Hint(candidate=one, cost=1.0, noise=1.0), Hint(candidate=two, cost=0.0, noise=1.0)]
    far = [Hint(candidate=one, cost=0.0, noise=16.0), Hint(candidate=two, cost=1.0, noise=16.0)]
    order = prior_order(PLAN, [*near, *far], trials=3 * PLAN.size)
    assert order.index(two) < order.index(one)


def test_a_run_of_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    decoder = kind_of(SHAPES["smollm2-135m"].config(), Path("smollm2-135m"))
    root = _stored(tmp_path / "runs", _earlier(1, count=3))
    here = Place(model="/other", kind=decoder, machine=MACHINE)
    with pytest.raises(UsageError, match=r"--warm-start .*: expected a run of a decoder model, got .* \(seq2seq, t5\)"):
        read_hints([root], resolved(OF), here, PLAN)


def test_a_run_without_the_objective_or_the_engines_is_refused(tmp_path: Path) -> None:
    root = _stored(tmp_path / "a", [replace(each, summary=None) for each in _earlier(1, count=3)])
    with pytest.raises(
        UsageError, match="expected a trial with a value of latency_p50_ms, the objective here, got none"
    ):
        read_hints([root], resolved(OF), HERE, PLAN)
    root = _stored(
        tmp_path / "b", [replace(each, candidate=replace(each.candidate, engine="fake")) for each in _earlier(1)]
    )
    with pytest.raises(UsageError, match="expected a trial of ctranslate2, onnxruntime, transformers, got none"):
        read_hints([root], resolved(OF), HERE, PLAN)


@pytest.mark.parametrize("file", ["run.json", "trials.jsonl"])
def test_a_damaged_run_is_one_sentence(tmp_path: Path, file: str) -> None:
    root = _stored(tmp_path / "runs", _earlier(1, count=3))
    (root / file).write_text('{"format": 1,\n{}\n')
    with pytest.raises(DynoError) as caught:
        read_hints([root], resolved(OF), HERE, PLAN)
    assert str(root / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_metrics_of_a_larger_is_better_objective_are_turned(tmp_path: Path) -> None:
    of = scenario({"trials": 12}, objectives=[{"metric": "throughput_rps", "goal": "maximize"}])
    root = _stored(tmp_path / "runs", _earlier(1))
    hints = read_hints([root], resolved(of), HERE, PLAN)
    trials = {each.candidate.candidate_id: each for each in _earlier(1)}
    best = min(hints, key=lambda hint: hint.cost)
    feasible = [each for each in trials.values() if each.is_feasible]

    def rps(trial: Trial) -> float:
        assert trial.summary is not None
        metric: Metric = trial.summary.metrics["throughput_rps"]
        return metric.value

    assert best.candidate.candidate_id == max(feasible, key=rps).candidate.candidate_id
