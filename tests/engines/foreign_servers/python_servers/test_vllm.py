"""vLLM's command line, environment and refusals, all known without a vLLM; test_vllm_server.py starts the real one."""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.api import Capabilities, EngineSpec
from engines.environments.locate import STAMP, environment_folder
from engines.errors import LaunchFailed, SpecInvalid, Unavailable
from engines.foreign_servers.python_servers import vllm
from engines.foreign_servers.python_servers.vllm import MODULE, PROGRAM, Served, VllmEngine, root_cause
from engines.foreign_servers.python_servers.vllm_arguments import Arguments, as_argument
from engines.foreign_servers.starting import openai_engine, program_start
from engines.foreign_servers.starting.program_place import Place, Program
from engines.launching import load_engine
from engines.models.checkpoint.kind import model_kind
from engines.spec_check import why_not, why_not_model
from harness.space.capabilities import engine_capabilities

PLACE = Place(argv=("python", "-m", MODULE, "--model"), where="a test", python="python")
LLAMA = {
    "model_type": "llama", "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    "hidden_size": 2048, "vocab_size": 128_256, "max_position_embeddings": 131_072,
}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    """A few arguments of the kinds that vLLM has."""
    parser = argparse.ArgumentParser()
    for name in ("--enable-prefix-caching", "--enforce-eager"):
        parser.add_argument(name, action=argparse.BooleanOptionalAction)
    parser.add_argument("--disable-log-stats", action="store_true")
    parser.add_argument("--max-num-seqs", type=int)
    parser.add_argument("--max-model-len", "-len", type=lambda text: int(text.removesuffix("k")))
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--kv-cache-dtype", type=str, choices=["auto", "fp8"])
    parser.add_argument("--speculative-config", type=json.loads)
    parser.add_argument("--middleware", nargs="+")
    parser.add_argument("--dtype", type=str)
    return parser


ARGUMENTS = Arguments(
    arguments={action.dest: as_argument(action) for action in _parser()._actions if action.dest != "help"},
    variables=("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND"),
)


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5, 6, 7})
    monkeypatch.setattr(vllm, "_arguments", lambda place: ARGUMENTS)
    for module in (vllm, program_start):
        monkeypatch.setattr(module, "versions_at", lambda place, packages: {"vllm-cpu": "0.32.0"})


def folder(parent: Path, **changes: Any) -> Path:
    parent.mkdir(exist_ok=True)
    (parent / "config.json").write_text(json.dumps(LLAMA | changes))
    return parent


def served(path: Path, **changes: Any) -> Served:
    return Served.of(EngineSpec(engine="vllm", model_dir=path, **changes), PLACE)


def values(words: list[str]) -> dict[str, str]:
    """--name -> the word after it, '' where another argument follows."""
    pairs = zip(words, [*words[1:], "--"], strict=True)
    return {word: "" if after.startswith("--") else after for word, after in pairs if word.startswith("--")}


def test_the_axes_become_vllms_arguments(tmp_path: Path) -> None:
    path = folder(tmp_path / "llama")
    words = served(path, dtype="bf16", tensor_parallel_degree=2, batch_size=8).argv()
    assert words[:5] == ["python", "-m", MODULE, "--model", str(path)]
    assert values(words[3:]) == {
        "--model": str(path), "--served-model-name": "$MODEL_NAME", "--host": "$ADDRESS", "--port": "$PORT",
        "--dtype": "bfloat16", "--tensor-parallel-size": "2", "--no-enable-prefix-caching": "",
        "--max-num-seqs": "8",
        "--max-model-len": "4096",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, {"--max-num-seqs": "1"}),
        ({"rolling_batch": "auto"}, {"--max-num-seqs": "32"}),
        ({"rolling_batch": "vllm", "options": {"max_rolling_batch_size": 5}}, {"--max-num-seqs": "5"}),
        ({"options": {"max_num_seqs": 7}}, {"--max-num-seqs": "7"}),
        ({"options": {"enable_prefix_caching": True}}, {"--enable-prefix-caching": ""}),
        ({"options": {"enforce_eager": False}}, {"--no-enforce-eager": ""}),
        ({"options": {"disable_log_stats": "true"}}, {"--disable-log-stats": ""}),
        ({"options": {"speculative_config": '{"method": "ngram"}'}}, {"--speculative-config": '{"method": "ngram"}'}),
        ({"options": {"max_model_len": 100_000}}, {"--max-model-len": "100000"}),
        ({"dtype": "fp16"}, {"--dtype": "float16"}),
    ],
)
def test_options_are_words_of_the_command_line(changes: dict[str, Any], found: dict[str, str], tmp_path: Path) -> None:
    words = values(served(folder(tmp_path), **changes).argv())
    assert found.items() <= words.items()


@pytest.mark.parametrize(
    ("changes", "binding", "gib"),
    [
        ({}, "4,5,6,7", "1"),
        ({"threads": 2}, "4,5", "1"),
        ({"tensor_parallel_degree": 2}, "4,5|6,7", "1"),
        ({"tensor_parallel_degree": 4, "threads": 4}, "4|5|6|7", "1"),
        ({"batch_size": 32}, "4,5,6,7", "4"),  # 64 KiB a token x 16 x 4,096
        ({"options": {"VLLM_CPU_KVCACHE_SPACE": 3}}, "4,5,6,7", "3"),
    ],
)
def test_ranks_get_cores_of_their_own_and_the_cache_holds_the_batch(
    changes: dict[str, Any], binding: str, gib: str, tmp_path: Path
) -> None:
    env = served(folder(tmp_path), **changes).env
    assert (env["VLLM_CPU_OMP_THREADS_BIND"], env["VLLM_CPU_KVCACHE_SPACE"]) == (binding, gib)
    assert env["VLLM_NO_USAGE_STATS"] == env["HF_HUB_OFFLINE"] == "1"


def test_through_responses_it_stores_answers_unless_it_is_not_to(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (path / "chat_template.jinja").write_text("{{ messages }}")
    start = served(path, options={"protocol": "openai-responses"})
    assert start.env["VLLM_ENABLE_RESPONSES_API_STORE"] == "1"
    endpoint = start.endpoint(1, "m")
    assert (endpoint.protocol, endpoint.dialect.exact_tokens) == ("openai-responses", "ignore_eos")
    options: dict[str, Any] = {"protocol": "openai-responses", "VLLM_ENABLE_RESPONSES_API_STORE": 0}
    assert served(path, options=options).env["VLLM_ENABLE_RESPONSES_API_STORE"] == "0"
    chat = served(path, options={"protocol": "openai-chat"})
    assert "VLLM_ENABLE_RESPONSES_API_STORE" not in chat.env
    assert chat.endpoint(1, "m").dialect.exact_tokens == "min_tokens"


def test_a_gpu_needs_neither_and_is_not_bound(tmp_path: Path) -> None:
    assert not {name for name in served(folder(tmp_path), device="cuda").env if name.startswith("VLLM_CPU")}


@pytest.mark.parametrize(
    ("config", "changes", "why"),
    [
        ({}, {"tensor_parallel_degree": 3}, r"32 heads \(8 key-value heads\) cannot be dealt out evenly"),
        ({}, {"threads": 5}, "threads 5 refused: vLLM binds each thread to a core, and 4 are here"),
        ({}, {"options": {"max_model_len": 200_000}}, "max_model_len is 200000, expected at most the model's 131072"),
        ({}, {"options": {"protocol": "openai-chat"}}, "has no chat template"),
        ({}, {"options": {"protocol": "grpc"}}, "expected one of openai, openai-chat"),
        ({}, {"options": {"kv_cache_dtype": "fp9"}}, "is 'fp9', expected one of auto, fp8; did you mean 'fp8'"),
        ({}, {"options": {"max_num_seqs": "many"}}, "is 'many', expected a whole number"),
        ({}, {"options": {"enforce_eager": 1}}, "is 1, expected true or false"),
        ({}, {"options": {"gpu_memory_utilization": "most"}}, "is 'most', expected a number"),
        ({}, {"options": {"max_rolling_batch_size": 4}}, "it goes with rolling_batch auto or vllm"),
        ({"head_dim": 24}, {}, "its heads have 24 dimensions, and vLLM's attention on a CPU takes 32, 64"),
        ({"model_type": "gemma2", "tie_word_embeddings": False}, {}, "no untied output layer for gemma2"),
    ],
)
def test_what_vllm_would_fail_at_is_one_sentence_before_it_starts(
    config: dict[str, Any], changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecInvalid, match=why) as raised:
        served(folder(tmp_path, **config), **changes)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("options.max_num_seq", 4, "did you mean 'max_num_seqs'"),
        ("options.dtype", "half", "it is an axis: dtype"),
        ("options.served_model_name", "x", "dyno names the model"),
        ("dtype", "int8", "vLLM quantizes nothing while it loads"),
        ("workers", 2, "one server is a trial"),
        ("tensor_parallel_degree", 5, "at most 4 here"),
        ("device", "cuda", "no NVIDIA driver"),
    ],
)
def test_a_candidate_that_it_cannot_serve_is_pruned(
    name: str, value: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Program, "place", lambda self, command, python, image="": PLACE)
    assert why in why_not("vllm", name, value, VllmEngine().capabilities())


def test_an_encoder_decoder_is_pruned_and_every_family_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Program, "place", lambda self, command, python, image="": PLACE)
    able = VllmEngine().capabilities()
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    assert "vllm serves decoder models; the folder holds t5" in why_not_model("vllm", model_kind(tmp_path), able)
    assert not why_not_model("vllm", model_kind(folder(tmp_path / "llama")), able)


def _program(path: Path, first_line: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(first_line + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_command_comes_before_python_the_environment_and_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(Unavailable, match="`dyno engine install vllm`, name python:"):
        PROGRAM.place("", "")

    on_path = _program(tmp_path / "bin" / "vllm", f"#!{sys.executable}")
    assert PROGRAM.place("", "") == Place(
        argv=(str(on_path), "serve"), where=f"{on_path} on the path", python=sys.executable
    )
    installed = _program(environment_folder("vllm") / "bin" / "python", "#!/bin/sh")
    (environment_folder("vllm") / STAMP).write_text("{}")
    assert PROGRAM.place("", "").argv == (str(installed), "-m", MODULE, "--model")

    assert PROGRAM.place("", sys.executable).python == sys.executable
    wrapper = _program(tmp_path / "wrapper.sh", "#!/bin/sh")
    assert PROGRAM.place(f"{wrapper} --quiet", sys.executable) == Place(
        argv=(str(wrapper), "--quiet", "--model"), where=f"option command='{wrapper} --quiet'"
    )
    with pytest.raises(Unavailable, match="option command='nowhere': no such program"):
        PROGRAM.place("nowhere", "")
    with pytest.raises(SpecInvalid, match="expected words as a shell reads them: No closing quotation"):
        PROGRAM.place("vllm 'serve", "")


def test_a_block_that_names_only_a_command_is_not_ruled_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    wrapper = _program(tmp_path / "wrapper.sh", "#!/bin/sh")
    assert not load_engine("vllm").probe().is_available
    assert load_engine("vllm", None, str(wrapper)).probe().is_available
    monkeypatch.setattr(vllm, "_arguments", lambda place: None)  # nobody knows which Python it runs
    able = engine_capabilities("vllm", "", str(wrapper))
    assert isinstance(able, Capabilities)
    assert not why_not("vllm", "options.max_num_batched_tokens", 512, able)


def test_doctor_says_whose_build_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Program, "place", lambda self, command, python, image="": PLACE)
    found = VllmEngine().probe()
    assert found.is_available
    assert found.note == "vllm-cpu is one person's build, not the vLLM project's"


LOG = """
(APIServer pid=1) INFO 11-28 starting
(EngineCore pid=2) ERROR 11-28 20:05:00 [core.py:900] Traceback (most recent call last):
(EngineCore pid=2) ERROR 11-28 20:05:00 [core.py:900] ValueError: To serve at least one request, 16 GiB are needed
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.
"""


def test_what_made_it_give_up_comes_first() -> None:
    assert root_cause(LOG.splitlines()) == "ValueError: To serve at least one request, 16 GiB are needed"
    assert root_cause(["INFO: no error here"]) == ""


@pytest.mark.heavy
def test_a_server_that_gives_up_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text(LOG)
    script = _program(tmp_path / "vllm.sh", f"#!/bin/sh\ncat {tmp_path}/log\nexit 1")
    monkeypatch.setattr(openai_engine, "check_model_folder", lambda path: None)
    spec = EngineSpec(engine="vllm", model_dir=folder(tmp_path / "llama"), options={"command": str(script)})
    launch: Callable[..., Any] = VllmEngine().launch
    with (
        pytest.raises(LaunchFailed, match=r"^vllm: ValueError: To serve at least one") as raised,
        launch(spec, tmp_path, 60.0),
    ):
        pass
    assert "ended with status 1" in str(raised.value)
