"""llama.cpp's real server on tiny checkpoints: the right tokens, counts and lengths, nothing lost, nothing left."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from engines.api import EngineSpec, RunningEngine, ScriptedEngine
from engines.cache_folder import cache_root
from engines.errors import ModelInvalid, SpecInvalid, Unavailable
from engines.launching import load_engine
from engines.models.gguf.architectures import ARCHITECTURES
from engines.models.gguf.as_folder import gguf_folder
from engines.models.gguf.cache import gguf_model
from engines.models.tokenizer import Tokenizer
from engines.setting import DTYPES
from engines.spec_check import why_not
from harness.load.plan import LoadPlan
from harness.load.protocol.interface import Form
from harness.load.protocol.registry import PROTOCOLS
from harness.records import Prompt
from tests.conformance.engine_suite import EngineCase, EngineSuite
from tests.engines.models.decoder_folders import write_decoder
from tests.harness.load.plans import measured_of, plan_of, run_load
from tests.harness.load.protocol.prompts import prompts_of_texts

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed: pip install '.[llamacpp]'"),
]

PROMPTS = ("spell: 42", "the quick brown fox jumps over it", "a", "date: 04/12/1987 and a few more words that go on")
NEW = 24
STAND_IN = Path(__file__).with_name("llama_server_stand_in.py")
TOLERANCE = {"gpt2": 2e-3, "gemma3_text": 2e-3}
"""Largest difference of a log-probability; llama.cpp looks GELU up in a table of halves."""
UNWINDOWED = {"mistral": {"sliding_window": None}}
"""llama.cpp has no windowed Mistral: the engine refuses a context beyond the window."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("llama"), "llama")


def _spec(folder: Path, **changes: Any) -> EngineSpec:
    return EngineSpec(engine="llamacpp", model_dir=folder, threads=1, batch_size=4, **changes)


@contextmanager
def _served(folder: Path, workdir: Path, **changes: Any) -> Iterator[RunningEngine]:
    """The server; nothing of it is there afterwards."""
    with load_engine("llamacpp").launch(replace(_spec(folder), **changes), workdir, 60.0) as running:
        pids = running.pids
        assert pids
        yield running
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def _completion(running: RunningEngine, ids: tuple[int, ...]) -> dict[str, Any]:
    """NEW tokens after `ids`, greedily, with the ids and log-probabilities that the server gives."""
    body = {"prompt": list(ids), "n_predict": NEW, "temperature": 0, "return_tokens": True, "ignore_eos": True}
    answer = httpx.post(
        f"{running.endpoint.url}/completion",
        json={**body, "cache_prompt": False, "n_probs": 1},
        timeout=60,
        trust_env=False,
    )
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_fp32_gives_the_tokens_and_scores_of_hugging_face(model_type: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = write_decoder(tmp_path / model_type, model_type, **UNWINDOWED.get(model_type, {}))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), Tokenizer.load(folder)
    with _served(folder, tmp_path / "logs") as running, torch.no_grad():
        assert running.facts.effective_dtype == "f32 weights, f32 KV"
        for prompt in PROMPTS:
            ids = tokenizer.encode(prompt)
            answer = _completion(running, ids)
            got = answer["tokens"]
            scores = model(torch.tensor([[*ids, *got]])).logits[0, len(ids) - 1 : -1]
            masked = scores.clone()
            masked[:, _ends(folder)] = -math.inf
            assert got == masked.argmax(-1).tolist()
            given = answer["completion_probabilities"]
            assert len(given) > NEW // 3
            assert _largest_difference(given, got, scores.log_softmax(-1)) < TOLERANCE.get(model_type, 1e-4)


def _ends(folder: Path) -> list[int]:
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    return ends if isinstance(ends, list) else [ends]


def _largest_difference(given: list[dict[str, Any]], ids: list[int], expected: Any) -> float:
    """Of the server's scores from Hugging Face's. The server leaves out tokens that end within a character, so its
    list is laid over the ids in the order in which it fits best."""
    best = [0.0] * (len(ids) + 1)
    for each in given:
        then = [math.inf]
        for place, number in enumerate(ids):
            difference = abs(float(expected[place, number]) - each["logprob"]) if number == each["id"] else math.inf
            then.append(min(then[-1], max(best[place], difference)))
        best = then
    return best[-1]


class TestContract:
    """What the suite of every engine asks of one whose answers are not in our protocol."""

    @pytest.fixture
    def case(self, llama: Path) -> EngineCase:
        return EngineCase(engine=load_engine("llamacpp"), spec=_spec(llama), prompts=PROMPTS)

    test_probe = EngineSuite.test_probe_is_cheap_and_explains_itself
    test_capabilities = EngineSuite.test_capabilities_explain_what_is_refused
    test_features = EngineSuite.test_every_feature_is_answered
    test_damaged_models = EngineSuite.test_a_damaged_model_is_one_sentence


def _body(running: RunningEngine, **parameters: object) -> dict[str, Any]:
    """The answer to a request in our own words, in the endpoint's dialect."""
    endpoint = running.endpoint
    form = Form(path="/v1/completions", model_name=endpoint.model_name, parameters={}, dialect=endpoint.dialect)
    body = PROTOCOLS[endpoint.protocol].body(form, prompts_of_texts(PROMPTS[1]), parameters)
    answer = httpx.post(f"{endpoint.url}/v1/completions", content=body, timeout=60, trust_env=False)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


@pytest.fixture(scope="module")
def running(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with _served(llama, tmp_path_factory.mktemp("logs")) as one:
        yield one


def test_as_many_tokens_come_as_are_asked_for_and_the_counts_are_ours(llama: Path, running: RunningEngine) -> None:
    for asked in (1, 7, 40):
        usage = _body(running, max_new_tokens=asked, min_new_tokens=asked)["usage"]
        assert usage["completion_tokens"] == asked
        assert usage["prompt_tokens"] == len(Tokenizer.load(llama).encode(PROMPTS[1]))


def test_no_prompt_is_answered_from_the_cache(running: RunningEngine) -> None:
    for _ in range(3):
        assert _body(running, max_new_tokens=2)["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0) == 0


def test_streams_of_four_users_lose_nothing(running: RunningEngine, tmp_path: Path) -> None:
    prompts = tuple(Prompt(prompt_id=f"p{n}", task="t", text=text, reference=None) for n, text in enumerate(PROMPTS))
    endpoint = running.endpoint
    plan: LoadPlan = plan_of(
        endpoint.url,
        protocol=endpoint.protocol,
        model_name=endpoint.model_name,
        dialect=endpoint.dialect,
        prompts=prompts,
        parameters={"max_new_tokens": 8, "min_new_tokens": 8},
        users=4,
        requests=30,
        stream=True,
    )
    measured = measured_of(run_load(plan, tmp_path))
    assert len(measured) == 30
    assert {(record.outcome, record.output_tokens) for record in measured} == {("ok", 8)}
    assert all(record.connect_ns is not None for record in measured)


def test_every_dtype_is_served_and_named(llama: Path, tmp_path: Path) -> None:
    able = load_engine("llamacpp").capabilities()
    assert set(able.effective_dtypes) == set(DTYPES)
    for dtype in ("bf16", "int4"):
        with _served(llama, tmp_path / dtype, dtype=dtype) as running:
            assert running.facts.effective_dtype == able.effective_dtypes[dtype]
            assert len(_completion(running, (1, 9, 10))["tokens"]) == NEW


def test_a_gguf_file_is_served_as_it_is(llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    shutil.copy(gguf_model(llama, "fp32", cache_root(), "llamacpp"), file)
    folder = gguf_folder(file, tmp_path / "cache")
    with _served(folder, tmp_path / "logs") as running:
        assert running.facts.effective_dtype == "f32 weights, f32 KV"
        assert running.endpoint.model_name.startswith("mine-")
        assert running.facts.converted_dir == ""
        assert str(file) in (tmp_path / "logs" / "start.sh").read_text()
        assert len(_completion(running, (1, 9, 10))["tokens"]) == NEW
    with (
        pytest.raises(SpecInvalid, match="dtype 'int8' refused: the GGUF file has f32 weights; it accepts fp32"),
        _served(folder, tmp_path, dtype="int8"),
    ):
        pass


def test_the_script_that_a_launch_wrote_starts_the_same_server(
    llama: Path, running: RunningEngine, tmp_path: Path
) -> None:
    spec, engine = _spec(llama), load_engine("llamacpp")
    assert isinstance(engine, ScriptedEngine)
    with _served(llama, tmp_path / "first"):
        pass
    script = tmp_path / "kept.sh"
    script.write_text((tmp_path / "first" / "start.sh").read_text() + "# mine\n")
    with engine.launch_script(script, spec, tmp_path / "again", 60.0) as again:
        assert psutil.Process(again.pids[0]).cmdline()[-1].startswith(llama.name)
        assert _completion(again, (1, 9, 10))["tokens"] == _completion(running, (1, 9, 10))["tokens"]
    assert not (tmp_path / "again" / "start.sh").exists()


def test_types_of_the_cache_are_named_with_those_of_the_weights(llama: Path, tmp_path: Path) -> None:
    options = {"cache_type_k": "bf16", "n_batch": 64, "flash_attn": "on", "kv_unified": True, "load_mode": "none"}
    with _served(llama, tmp_path, dtype="int8", options=options) as running:
        assert running.facts.effective_dtype == "q8_0 weights, bf16 and f16 KV"
        assert len(_completion(running, (1, 9, 10))["tokens"]) == NEW


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"options": {"cache_typ_k": "f16"}}, "no such option; did you mean 'cache_type_k'"),
        ({"options": {"cache_type_k": "f12"}}, "options.cache_type_k 'f12' refused: expected one of f32, f16"),
        (
            {"options": {"cache_type_v": "q8_0"}},
            "option cache_type_v is 'q8_0': heads of 16 do not fill its blocks of 32",
        ),
        ({"options": {"n_batch": "many"}}, "options.n_batch 'many' refused: expected a whole number >= 1"),
        ({"options": {"context": 4096}}, "option context is 4096, expected at most 128"),
        ({"options": {"protocol": "djl"}}, "expected one of openai, openai-chat"),
        ({"workers": 2}, "workers 2 refused: one server is a trial"),
        ({"tensor_parallel_degree": 2}, "splits layers over GPUs"),
        ({"dtype": "int3"}, "dtype 'int3' refused"),
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_starts(
    llama: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SpecInvalid) as caught, _served(llama, tmp_path, **changes):
        pass
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_workers_are_pruned_with_the_reason() -> None:
    able = load_engine("llamacpp").capabilities()
    assert why_not("llamacpp", "workers", 2, able) == able.reasons["workers"]
    assert why_not("llamacpp", "workers", 1, able) == ""


def test_a_program_is_started_with_flags_that_mean_the_same(
    llama: Path, running: RunningEngine, tmp_path: Path
) -> None:
    program = tmp_path / "llama-server"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} "$@"\n')
    program.chmod(0o755)
    options = {"command": str(program), "cont_batching": False, "n_batch": 64}
    with _served(llama, tmp_path / "logs", options=options) as other:
        assert _completion(other, (1, 9, 10))["tokens"] == _completion(running, (1, 9, 10))["tokens"]
        assert other.facts.versions.keys() == {"llama.cpp"}
    script = (tmp_path / "logs" / "start.sh").read_text()
    assert f"exec {program} --model" in script
    assert "--no-cont-batching" in script


def test_tokens_that_end_an_answer_by_their_text_alone_are_noted(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    for name in ("tokenizer.json", "chat_template.jinja"):
        path = folder / name
        path.write_text(path.read_text().replace("<|user|>", "<|im_end|>"))
    with _served(folder, tmp_path / "logs") as one:
        assert "llama.cpp also ends an answer at <|im_end|>, the model does not" in one.facts.notes


def test_a_command_that_is_not_there_is_one_sentence(llama: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(Unavailable, match="option command='/nowhere/llama-server': no such program"),
        _served(llama, tmp_path, options={"command": "/nowhere/llama-server"}),
    ):
        pass


def test_a_block_names_the_place_and_the_plan_looks_there(llama: Path, tmp_path: Path) -> None:
    missing = load_engine("llamacpp", command="/nowhere/llama-server").probe()
    assert missing.reason == "llamacpp: option command='/nowhere/llama-server': no such program"
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    bare = load_engine("llamacpp", str(program)).probe()
    assert f"python {str(program)!r} has no xllamacpp: {program} -m pip install xllamacpp gguf" in bare.reason
    named = load_engine("llamacpp", sys.executable)
    assert named.probe().is_available
    with named.launch(_spec(llama, python=sys.executable), tmp_path / "logs", 60.0) as running:
        assert len(_completion(running, (1, 9, 10))["tokens"]) == NEW


def test_a_window_shorter_than_the_context_is_refused(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "mistral", "mistral")
    with pytest.raises(SpecInvalid, match="at most 12: its window"), _served(folder, tmp_path, options={"context": 64}):
        pass


def test_a_tokenizer_that_llama_cpp_splits_otherwise_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"].append(
        {**content["added_tokens"][0], "id": 300, "content": "the", "lstrip": True, "special": False}
    )
    path.write_text(json.dumps(content))
    with (
        pytest.raises(ModelInvalid, match=r"llama\.cpp splits 'the quick brown fox' into tokens"),
        _served(folder, tmp_path),
    ):
        pass
