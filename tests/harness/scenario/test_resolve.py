"""Resolving is pure, hashed, and reversible from a run's manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness.errors import StaleScenario
from harness.scenario.resolve import (
    BUNDLED_CORPUS,
    BUNDLED_DECODER,
    BUNDLED_MODEL,
    BUNDLED_PROMPTS,
    ModelRef,
    digest_of,
    resolve,
    resolved_from_dict,
    with_code,
)
from harness.scenario.schema import Scenario


def _scenario(**more: object) -> Scenario:
    return Scenario.model_validate({"name": "s", "space": [{"engine": "fake", "batch_size": [1, 4]}], **more})


def test_absent_model_and_prompts_are_the_bundled_ones() -> None:
    resolved = resolve(_scenario(), Path("anywhere/s.yaml"))
    assert resolved.model == ModelRef(kind="path", value=str(BUNDLED_MODEL))
    assert resolved.prompts_path == BUNDLED_PROMPTS


def test_a_bundled_model_is_named_by_its_kind_and_leaves_other_digests_alone() -> None:
    resolved = resolve(_scenario(model={"bundled": "decoder"}), Path("anywhere/s.yaml"))
    assert resolved.model == ModelRef(kind="path", value=str(BUNDLED_DECODER))
    assert resolve(_scenario(model={"bundled": "seq2seq"}), Path("s.yaml")).model.value == str(BUNDLED_MODEL)
    before = _scenario(model={"path": "m"}, search={"sampler": "tpe"})  # then the default
    assert resolve(before, Path("s.yaml")).digest == "ee417f0b68"


def test_paths_start_at_the_scenario_file() -> None:
    of = _scenario(model={"path": "../m"}, workload={"prompts": "p.jsonl"})
    resolved = resolve(of, Path("/a/b/s.yaml"))
    assert resolved.model.value == "/a/m"
    assert resolved.prompts_path == Path("/a/b/p.jsonl")


def test_a_shape_has_seed_zero_unless_given() -> None:
    assert resolve(_scenario(model={"shape": "ul2"}), Path("s.yaml")).model == ModelRef(kind="shape", value="ul2")
    seeded = resolve(_scenario(model={"shape": "ul2", "seed": 7}), Path("s.yaml"))
    assert seeded.model == ModelRef(kind="shape", value="ul2", seed=7)


def test_the_digest_names_the_content_and_not_the_place() -> None:
    digest = resolve(_scenario(), Path("/a/s.yaml")).digest
    assert len(digest) == 10
    assert resolve(_scenario(), Path("/b/t.yaml")).digest == digest
    assert resolve(_scenario(search={"trials": 99}), Path("/a/s.yaml")).digest != digest


def test_defaults_written_out_give_the_same_digest() -> None:
    spelled = _scenario(search={"sampler": "gp", "seed": 0}, workload={"requests": 200})
    assert resolve(spelled, Path("s.yaml")).digest == resolve(_scenario(), Path("s.yaml")).digest


def test_a_stored_scenario_comes_back_equal() -> None:
    of = _scenario(constraints={"quality": "Normal", "error_frac": {"max": 0}}, description="x")
    resolved = resolve(of, Path("/a/s.yaml"))
    assert resolved_from_dict(json.loads(json.dumps(resolved.as_dict()))) == resolved


def test_the_stored_form_keeps_the_scenarios_own_keys_on_top() -> None:
    stored = resolve(_scenario(), Path("s.yaml")).as_dict()
    assert stored["objectives"] == [{"metric": "latency_p50_ms", "goal": "minimize"}]
    assert stored["recommend"] == {"container": "dynamometer-0.1"}
    assert stored["space"][0]["batch_size"] == [1, 4]


def test_a_locustfile_is_named_by_its_content_in_the_digest_and_comes_back() -> None:
    of = _scenario(workload={"locustfile": "chat.py"})
    resolved = resolve(of, Path("/a/s.yaml"))
    assert resolved.locustfile_path == Path("/a/chat.py")
    first, second = (with_code(resolved, letter * 64) for letter in "ab")
    assert len({resolved.digest, first.digest, second.digest}) == 3
    assert resolved_from_dict(json.loads(json.dumps(first.as_dict()))) == first


def test_scenarios_without_younger_keys_keep_the_digest_of_runs_stored_before_there_were_any() -> None:
    """Computed before there were a locustfile, a request, a time to be ready, and parameters that are not sent."""
    search = {"sampler": "tpe"}  # their default
    assert digest_of(_scenario(search=search)) == "7ca6399249"
    written = {"parameters": {"max_new_tokens": 80, "min_new_tokens": 0, "num_beams": 1}}
    assert digest_of(_scenario(search=search, workload=written)) == "7ca6399249"
    assert digest_of(_scenario(search=search, workload={"parameters": {"top_k": 5}})) != "7ca6399249"


def test_a_trace_of_a_run_stored_before_there_was_a_corpus_is_replayed_as_it_was() -> None:
    resolved = resolve(_scenario(workload={"load": {"kind": "trace", "path": "t.csv"}}), Path("/a/s.yaml"))
    assert resolved.corpus_path == BUNDLED_CORPUS
    stored = json.loads(json.dumps(resolved.as_dict()))
    assert resolved_from_dict(stored) == resolved
    del stored["resolved"]["corpus_path"]
    assert resolved_from_dict(stored).corpus_path is None
    own = _scenario(workload={"load": {"kind": "trace", "path": "t.csv"}, "corpus": "mine.txt"})
    assert resolve(own, Path("/a/s.yaml")).corpus_path == Path("/a/mine.txt")
    assert digest_of(own) != resolved.digest
    assert resolve(_scenario(), Path("/a/s.yaml")).corpus_path is None


@pytest.mark.parametrize(
    ("workload", "problem"),
    [
        ({"corpus": "c.txt"}, "a corpus only beside lengths.input or load.kind trace"),
        ({"corpus_may_repeat": True, "lengths": {"output": 5}}, "a corpus only beside lengths.input"),
        ({"lengths": {}}, "expected input, output or both"),
        ({"lengths": {"input": 5, "shared": 5}}, "expected shared below lengths.input"),
        ({"lengths": {"input": {"min": 5, "max": 9}, "shared": 5}}, "expected shared below lengths.input"),
        ({"lengths": {"output": {"min": 9, "max": 5}}}, "expected min up to max, got '9 to 5'"),
        ({"lengths": {"input": 5}, "load": {"kind": "trace", "path": "t"}}, "no lengths beside load.kind trace"),
        ({"lengths": {"output": 5}, "locustfile": "l.py"}, "no lengths beside locustfile"),
    ],
)
def test_lengths_and_a_corpus_that_nothing_is_cut_for_are_refused(workload: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        _scenario(workload=workload)


@pytest.mark.parametrize(
    ("workload", "field", "value"),
    [
        ({"load": {"kind": "trace", "path": "t.csv"}}, "trace_path", None),
        ({}, "trace_path", "/t.csv"),
        ({"locustfile": "l.py"}, "locustfile_path", None),
        ({}, "locustfile_sha256", "a" * 64),
    ],
)
def test_a_stored_scenario_without_the_file_that_it_names_would_be_another_load(
    workload: dict[str, object], field: str, value: str | None
) -> None:
    stored = resolve(_scenario(workload=workload), Path("s.yaml")).as_dict()
    stored["resolved"][field] = value
    with pytest.raises(StaleScenario, match=rf"scenario\.resolved\.{field}: does not fit what the scenario names"):
        resolved_from_dict(stored)
