"""Lengths drawn from a range: within it, all of it, the same for every candidate, and sent as drawn."""

from __future__ import annotations

from pathlib import Path

from harness.load.plan import LoadPlan
from harness.load.prompts.lengths import SentPrompts, shaped
from harness.scenario.resolve import BUNDLED_DECODER, resolve
from harness.scenario.schema import Scenario
from harness.space.chat import token_counts
from harness.trial.inputs import read_inputs
from harness.trial.request_texts import RequestTexts
from tests.harness.load.plans import plan_of

LENGTHS = {"input": {"min": 30, "max": 50}, "output": {"min": 3, "max": 6}, "shared": 20}


def _filled(folder: Path, *, seed: int = 1, requests: int = 200, inputs: int = 1) -> LoadPlan:
    scenario = Scenario.model_validate(
        {"name": "s", "space": [{"engine": "fake"}], "workload": {"lengths": LENGTHS, "inputs_per_request": inputs}}
    )
    texts = RequestTexts(read_inputs(resolve(scenario, folder / "s.yaml")))
    plan = plan_of("http://h", requests=requests, seed=seed, warmup_requests=2, inputs_per_request=inputs)
    return texts.filled(plan, BUNDLED_DECODER)


def test_every_length_of_the_range_comes_and_no_other(tmp_path: Path) -> None:
    plan = _filled(tmp_path)
    assert set(plan.input_lengths) == set(range(30, 51))
    assert set(plan.output_lengths) == set(range(3, 7))
    known = [length for length in plan.input_lengths if length is not None]
    assert 38 < sum(known) / len(known) < 42  # 40 but for 0.43 of standard error
    assert plan.unlimited_hit_frac == 20 * 200 / sum(known)


def test_the_seed_alone_draws_them(tmp_path: Path) -> None:
    plan = _filled(tmp_path)
    again, other = _filled(tmp_path), _filled(tmp_path, seed=2)
    assert (plan.input_lengths, plan.output_lengths) == (again.input_lengths, again.output_lengths)
    assert plan.input_lengths != other.input_lengths


def test_what_is_sent_has_the_length_drawn_in_each_input_of_a_request(tmp_path: Path) -> None:
    plan = _filled(tmp_path, requests=20, inputs=2)
    texts = SentPrompts(plan)
    for seq in range(plan.requests):
        prompts, parameters = shaped(plan, seq, texts.measured(seq))
        drawn, answer = plan.input_lengths[seq], plan.output_lengths[seq]
        assert drawn is not None
        assert answer is not None
        assert parameters is not None
        assert all(abs(tokens - drawn / 2) <= 1 for tokens in token_counts(prompts, BUNDLED_DECODER))
        assert parameters["max_new_tokens"] == parameters["min_new_tokens"] == answer / 2
