"""Which candidates are planned, which are ruled out, and the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from engines.api import Availability, Capabilities
from engines.models.checkpoint.kind import ModelKind
from harness.errors import EnvironmentFault, ScenarioError
from harness.scenario.resolve import resolve
from harness.scenario.schema import Scenario
from harness.space.candidates import SpacePlan, plan_space, require_candidates
from harness.space.plan_text import plan_lines

CPU = Capabilities(
    effective_dtypes={"fp32": "fp32", "bf16": "fp32"},
    reasons={"fp16": "no half floats on this CPU"},
    options={"compile": "torch.compile"},
)


_T5 = ModelKind(name="seq2seq", model_type="t5", layers=2, heads=4, kv_heads=4, head_dim=16, hidden=64, vocab_size=512)


def _plan(
    space: list[dict[str, object]],
    able: Capabilities | Availability = CPU,
    cores: int | None = None,
    parameters: Mapping[str, float] | None = None,
    container: str = "dynamometer-0.1",
) -> SpacePlan:
    workload = {"parameters": parameters or {}}
    recommend = {"container": container}
    of = Scenario.model_validate({"name": "s", "space": space, "workload": workload, "recommend": recommend})
    return plan_space(resolve(of, Path("s.yaml")), lambda engine, python: able, cores)


def test_a_block_is_the_product_of_its_axes_first_values_first() -> None:
    plan = _plan([{"engine": "fake", "workers": [2, 1], "batch_size": [1, 4]}])
    assert [(each.workers, each.batch_size) for each in plan.candidates] == [(2, 1), (2, 4), (1, 1), (1, 4)]
    assert plan.blocks[0].default == plan.candidates[0]
    assert plan.size == 4


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"num_beams": 4}, "fake has no num_beams, and it is 4"),
        ({"min_new_tokens": 3}, "fake writes up to max_new_tokens (80) or exactly so many; min_new_tokens is 3"),
        ({"min_new_tokens": 80}, ""),
        ({"num_beams": 1, "repetition_penalty": 1.0}, ""),
        ({}, ""),
    ],
)
def test_what_an_engine_cannot_be_asked_is_ruled_out(parameters: dict[str, float], reason: str) -> None:
    able = replace(CPU, ignored_parameters=("num_beams", "repetition_penalty"), has_minimum_length=False)
    plan = _plan([{"engine": "fake"}], able, parameters=parameters)
    assert [reason in each.reason for each in plan.pruned] == ([True] if reason else [])
    assert not _plan([{"engine": "fake"}], parameters=parameters).pruned


def test_options_are_axes_too() -> None:
    plan = _plan([{"engine": "fake", "options": {"compile": [False, True]}}])
    assert [dict(each.options) for each in plan.candidates] == [{"compile": False}, {"compile": True}]


@pytest.mark.parametrize(
    ("axes", "left", "what", "reason"),
    [
        ({"dtype": ["fp32", "fp16"]}, 1, "fake dtype=fp16", "no half floats on this CPU; it accepts fp32, bf16 here"),
        ({"dtype": ["fp32", "w8a8"]}, 1, "fake dtype=w8a8", "not supported; it accepts fp32, bf16 here"),
        (
            {"tensor_parallel_degree": [1, 4]},
            1,
            "fake tensor_parallel_degree=4",
            "fake can split over at most 1 here",
        ),
        ({"device": ["cpu", "cuda"]}, 1, "fake device=cuda", "this machine has no cuda that fake can use"),
        (
            {"rolling_batch": ["disable", "auto"]},
            1,
            "fake rolling_batch=auto",
            "fake has no rolling batch; use 'disable'",
        ),
        (
            {"options": {"compil": [True]}},
            0,
            "fake options.compil=True",
            "fake has no such option; did you mean 'compile'?",
        ),
    ],
)
def test_what_an_engine_cannot_do_is_ruled_out_with_the_reason(
    axes: dict[str, object], left: int, what: str, reason: str
) -> None:
    plan = _plan([{"engine": "fake", **axes}])
    assert plan.size == left
    assert [(each.description, each.reason, each.count) for each in plan.pruned] == [(what, reason, 1)]


def test_what_is_left_and_what_is_gone_add_up_to_the_whole_product() -> None:
    axes = {
        "dtype": ["fp32", "fp16"],
        "tensor_parallel_degree": [1, 2, 4],
        "workers": [1, 2],
        "device": ["cpu", "cuda"],
    }
    plan = _plan([{"engine": "fake", **axes}])
    assert plan.size + sum(each.count for each in plan.pruned) == 2 * 3 * 2 * 2
    assert plan.size == 2


def test_an_engine_that_is_not_there_takes_its_block_with_it() -> None:
    gone = Availability(is_available=False, reason="not installed: pip install 'dynamometer[onnxruntime]'")
    of = Scenario.model_validate(
        {"name": "s", "space": [{"engine": "onnxruntime", "workers": [1, 2]}, {"engine": "fake"}]}
    )
    plan = plan_space(resolve(of, Path("s.yaml")), lambda engine, python: gone if engine == "onnxruntime" else CPU)
    assert [block.engine for block in plan.blocks] == ["fake"]
    assert plan.candidates[0].block == 1
    assert [(each.reason, each.count) for each in plan.pruned] == [(gone.reason, 2)]


def test_nothing_left_is_one_sentence_with_every_reason() -> None:
    plan = _plan([{"engine": "fake", "dtype": "fp16"}])
    of = Scenario.model_validate({"name": "s", "space": [{"engine": "fake", "dtype": "fp16"}]})
    with pytest.raises(EnvironmentFault) as caught:
        require_candidates(plan, resolve(of, Path("s.yaml")))
    assert str(caught.value) == (
        "s.yaml: space: none of the candidates can be launched on this machine: "
        "fake dtype=fp16: no half floats on this CPU; it accepts fp32, bf16 here; "
        "`dyno doctor` lists what this machine can launch"
    )
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("engine", "container", "is_planned"),
    [("t5", "dynamometer-0.1", True), ("t5", "0.36.0", False), ("vllm", "0.36.0", True), ("llamacpp", "0.36.0", True)],
)
def test_a_container_of_djl_s_gets_no_rolling_batch_of_ours(engine: str, container: str, is_planned: bool) -> None:
    space: list[dict[str, object]] = [{"engine": engine, "rolling_batch": ["disable", "auto"]}]
    plan = _plan(space, replace(CPU, has_rolling_batch=True), container=container)
    assert [each.rolling_batch for each in plan.candidates] == ["disable", *(["auto"] if is_planned else [])]
    reasons = [f"{each.description}: {each.reason}" for each in plan.pruned]
    assert bool(reasons) is not is_planned
    assert all(reason.startswith("t5 rolling_batch=auto: recommend.container is 0.36.0, whose") for reason in reasons)


def test_a_candidate_in_two_blocks_is_measured_once() -> None:
    plan = _plan([{"engine": "fake", "workers": [1, 2]}, {"engine": "fake", "workers": [2, 3]}])
    assert [each.workers for each in plan.candidates] == [1, 2, 3]
    assert [block.label for block in plan.blocks] == ["fake#0", "fake#1"]
    assert plan.warnings == ("1 candidates stand in two blocks; each is measured once",)


def test_what_is_in_production_comes_first_also_where_another_block_has_it_too() -> None:
    plan = _plan([{"engine": "fake", "workers": [2, 1]}, {"engine": "fake", "workers": 1, "incumbent": True}])
    assert [(each.workers, each.block) for each in plan.candidates] == [(1, 1), (2, 0)]
    assert [block.is_incumbent for block in plan.blocks] == [True, False]


def test_too_many_threads_are_a_warning_not_a_reason_to_prune() -> None:
    plan = _plan([{"engine": "fake", "workers": [1, 2], "threads": [1, 2]}], cores=2)
    assert plan.size == 4
    assert plan.warnings == ("1 candidates ask for more threads (workers x threads) than the 2 cores here",)


def test_a_space_that_could_never_be_searched_is_refused() -> None:
    many = list(range(1, 400))
    with pytest.raises(
        ScenarioError, match=r"s\.yaml: space\.0 \(fake\): expected at most 100000 candidates, got 159201"
    ):
        _plan([{"engine": "fake", "workers": many, "batch_size": many}])


def test_a_block_s_environment_is_asked_and_names_its_candidates_apart() -> None:
    blocks = [
        {"engine": "onnxruntime"},
        {"engine": "onnxruntime", "python": "envs/a"},
        {"engine": "fake", "python": "auto"},
    ]
    of = Scenario.model_validate({"name": "places", "space": blocks})
    asked: list[tuple[str, str]] = []

    def able(engine: str, python: str) -> Capabilities:
        asked.append((engine, python))
        return CPU

    plan = plan_space(resolve(of, Path("/scenarios/s.yaml")), able)

    assert asked == [("onnxruntime", ""), ("onnxruntime", "/scenarios/envs/a"), ("fake", "auto")]
    assert [each.python for each in plan.candidates] == ["", "/scenarios/envs/a", "auto"]
    assert len({each.candidate_id for each in plan.candidates}) == 3


def test_an_environment_that_its_list_has_left_behind_is_a_warning_said_once() -> None:
    blocks = [{"engine": "onnxruntime", "python": "auto", "workers": [1, 2]}, {"engine": "fake"}]
    of = Scenario.model_validate({"name": "stale", "space": blocks})
    plan = plan_space(
        resolve(of, Path("s.yaml")),
        lambda engine, python: CPU,
        why_stale=lambda engine, python: f"{engine} in {python} is old" if python else "",
    )
    assert plan.warnings == ("onnxruntime in auto is old",)


def test_a_model_of_another_kind_rules_the_engine_out_before_any_launch() -> None:
    of = Scenario.model_validate({"name": "s", "space": [{"engine": "fake", "workers": [1, 2]}]})
    sizes = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "hidden": 64, "vocab_size": 512}
    llama = ModelKind(name="decoder", model_type="llama", sliding_window=12, **sizes)

    def reasons(**able: object) -> list[str]:
        named = replace(CPU, **able)  # type: ignore[arg-type]
        plan = plan_space(resolve(of, Path("s.yaml")), lambda engine, python: named, kind=llama)
        assert plan.size == (0 if plan.pruned else 2)
        return [f"{each.description} ({each.count}): {each.reason}" for each in plan.pruned]

    assert reasons() == ["fake (2): fake serves seq2seq models; the folder holds llama"]
    assert reasons(model_kinds=()) == []
    assert reasons(model_kinds=("seq2seq", "decoder")) == []
    assert reasons(model_kinds=("decoder",), architectures=("gpt2",)) == [
        "fake (2): fake does not serve llama; it serves gpt2"
    ]
    assert reasons(model_kinds=("decoder",), reasons={"sliding_window": "it has no window"}) == [
        "fake (2): llama: it has no window"
    ]


def test_a_context_too_short_for_prompt_and_answer_rules_a_server_out() -> None:
    able = replace(CPU, options={"room": ""}, context_option="room", usual_context=40)

    def gone(tokens: int | None, **block: object) -> list[str]:
        of = Scenario.model_validate({"name": "s", "space": [{"engine": "fake", **block}]})
        plan = plan_space(resolve(of, Path("s.yaml")), lambda engine, python: able, tokens=tokens)
        return [f"{each.description} ({each.count}): {each.reason}" for each in plan.pruned]

    why = "prompt and answer need 41 tokens, and {} fit; raise options.room"
    assert gone(None) == gone(40) == gone(41, options={"room": 41}) == []
    assert gone(41, workers=[1, 2]) == [f"fake (2): {why.format(40)}"]
    assert gone(41, options={"room": [16, 64]}) == [f"fake options.room=16 (1): {why.format(16)}"]

    of = Scenario.model_validate({"name": "s", "space": [{"engine": "fake", "options": {"room": 16}}]})
    resolved = resolve(of, Path("s.yaml"))
    with pytest.raises(
        ScenarioError, match=r"none of the candidates can be served on any machine: fake options\.room=16"
    ):
        require_candidates(plan_space(resolved, lambda engine, python: able, tokens=41), resolved)


@pytest.mark.parametrize(("tokens", "is_beyond"), [(None, False), (12, False), (13, True)])
def test_a_prompt_beyond_the_window_rules_out_an_engine_without_windows(tokens: int | None, is_beyond: bool) -> None:
    of = Scenario.model_validate({"name": "s", "space": [{"engine": "fake"}, {"engine": "transformers"}]})
    sizes = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "hidden": 64, "vocab_size": 512}
    mistral = ModelKind(name="decoder", model_type="mistral", sliding_window=12, max_positions=40, **sizes)
    able = replace(CPU, model_kinds=("decoder",))
    plain = replace(able, leaves_out={"sliding_window": ("mistral", "phi3")})
    named = {"fake": plain, "transformers": able}
    plan = plan_space(resolve(of, Path("s.yaml")), lambda engine, python: named[engine], kind=mistral, tokens=tokens)
    assert [each.engine for each in plan.candidates] == (["transformers"] if is_beyond else ["fake", "transformers"])
    assert [each.reason for each in plan.pruned] == is_beyond * [
        "prompt and answer make 13 tokens; beyond 12, the model's window, fake would give other answers"
    ]


def test_a_model_that_no_machine_serves_so_is_the_scenarios_fault_and_nothing_is_installed_for_it() -> None:
    of = Scenario.model_validate({"name": "s", "space": [{"engine": "vllm"}, {"engine": "ctranslate2"}]})
    resolved = resolve(of, Path("s.yaml"))
    asked: list[str] = []

    def able(engine: str, python: str) -> Capabilities | Availability:
        asked.append(engine)
        return replace(CPU, model_kinds=("decoder",))

    plan = plan_space(resolved, able, kind=_T5)
    assert [(each.description, each.is_everywhere) for each in plan.pruned] == [("vllm", True), ("ctranslate2", True)]
    assert asked == ["ctranslate2"]
    assert not plan.is_possible
    lines = list(plan_lines(resolved, plan, ()))
    assert lines[-1] == "nothing is left to measure, on this machine or another"
    with pytest.raises(
        ScenarioError, match="none of the candidates can be served on any machine: vllm: vllm serves decoder"
    ):
        require_candidates(plan, resolved)

    missing = Availability(is_available=False, reason="it is not installed")
    other = plan_space(resolved, lambda engine, python: missing, kind=_T5)
    assert [each.is_everywhere for each in other.pruned] == [True, False]
    lines = list(plan_lines(resolved, other, ()))
    assert "elsewhere  where all of them can be launched: gp, 1 of 1 candidates" in lines
    assert "           ctranslate2: one candidate" in lines
    assert "           vllm: one candidate" not in lines
