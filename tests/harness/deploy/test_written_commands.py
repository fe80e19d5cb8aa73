"""Start commands of servers that were not yet run: read back into the measured candidate, or refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from engines.adapters import not_launched
from engines.foreign_servers.written_commands import WRITERS
from engines.launching import load_engine
from engines.models.checkpoint.kind import model_kind
from engines.setting import OptionValue
from harness.cli.doctor import command as doctor
from harness.deploy.forms import FORMS, Form, form
from harness.deploy.started import Started, arguments_in
from harness.errors import UsageError
from harness.properties.render import Source
from harness.records import Candidate
from harness.scenario.engine_block import EngineBlock
from tests.harness.choose.runs import run_of, trial
from tests.harness.deploy.read_back import script_server, value_of

HOW_MANY = 100
TRTLLM, TGI = not_launched.TRTLLM.form, not_launched.TGI.form
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "hidden_size": 512, "intermediate_size": 1024, "vocab_size": 1000,
    "max_position_embeddings": 8192,
}  # fmt: skip
VLLM = {"max_model_len": (512, 2048), "enable_prefix_caching": (True, False)}
SGLANG = {"context_length": (512, 2048), "radix_cache": (True, False)}
OF_TRTLLM = {"max_num_batched_tokens": (512, 4096), "enable_chunked_prefill": (True, False), "enforce_eager": (False,)}
OF_TGI = {"kv_cache_dtype": ("fp8_e5m2", "fp8_e4m3"), "enforce_eager": (True, False), "enable_chunked_prefill": (True,)}


def _folder(root: Path, dtype: str) -> Path:
    folder = root / dtype
    folder.mkdir(exist_ok=True)
    word = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[dtype]
    (folder / "config.json").write_text(json.dumps({**LLAMA, "torch_dtype": word}))
    return folder


def _form(name: str, candidate: Candidate, folder: Path) -> Form:
    manifest = run_of(resolved={"model": {"kind": "path", "value": str(folder), "seed": 0}}).manifest
    return form(Source(run_name="r", manifest=manifest, trial=trial(3, candidate, (20.1, 19.8, 20.6))), name, OWN, OUT)


OWN, OUT = "dynamometer-0.1", Path("/out")


def _drawn(rng: random.Random, engine: str, more: Mapping[str, tuple[Any, ...]]) -> Candidate:
    known = {**(VLLM if engine == "vllm" else SGLANG if engine == "sglang" else {}), **more}
    options: dict[str, OptionValue] = {name: rng.choice(values) for name, values in known.items() if rng.random() < 0.5}
    axes: dict[str, Any] = {"batch_size": rng.choice((1, 8))}
    if rng.random() < 0.5:
        axes = {"rolling_batch": "auto"}
        options |= {"max_rolling_batch_size": 12} if rng.random() < 0.5 else {}
    degree, dtype = rng.choice((1, 2, 4)), rng.choice(("bf16", "fp16"))
    return Candidate(
        block=0, engine=engine, dtype=dtype, tensor_parallel_degree=degree, device="cuda", options=options, **axes
    )


def _expected(candidate: Candidate) -> dict[str, OptionValue]:
    """What the measured server was, in one vocabulary."""
    options = dict(candidate.options)
    rolling = options.pop("max_rolling_batch_size", 32)
    context = options.pop("context_length", options.pop("max_model_len", 4096 if candidate.engine == "vllm" else 0))
    reuse = options.pop("radix_cache", options.pop("enable_prefix_caching", False))
    cuts = options.pop("enable_chunked_prefill", candidate.engine != "transformers")
    return {
        "dtype": candidate.dtype, "degree": candidate.tensor_parallel_degree, "cuts": cuts, "reuse": reuse,
        "at_once": rolling if candidate.rolling_batch == "auto" else candidate.batch_size, "context": context,
        **{name: value for name, value in options.items() if value is not False},
    }  # fmt: skip


def _read_trtllm(made: Form, folder: Path) -> dict[str, OptionValue]:
    server = script_server(made.files["trtllm-serve.sh"], Started(image="", port=0, health=""))
    assert server.command[:2] == ("trtllm-serve", str(folder))
    words = arguments_in(server.command[2:])
    assert (words.pop("host"), words.pop("extra_llm_api_options")) == ("127.0.0.1", "/out/trtllm-serve.yaml")
    config = yaml.safe_load(made.files["trtllm-serve.yaml"])
    names = {"max_num_tokens": "max_num_batched_tokens"}
    return {
        "dtype": model_kind(folder).dtype,
        "degree": int(str(words.pop("tp_size"))),
        "cuts": words.pop("enable_chunked_prefill", "off") is None,
        "reuse": config["kv_cache_config"]["enable_block_reuse"],
        "at_once": int(str(words.pop("max_batch_size"))),
        "context": int(words.pop("max_seq_len", "0") or 0),
        **{names[name]: value_of(str(text)) for name, text in words.items() if name != "port"},
    }


def _read_tgi(made: Form, folder: Path) -> dict[str, OptionValue]:
    server = script_server(made.files["tgi.sh"], Started(image="", port=0, health=""))
    words = arguments_in(server.command[1:])
    assert (server.command[0], words.pop("model-id")) == ("text-generation-launcher", str(folder))
    assert (words.pop("hostname"), words.pop("usage-stats"), words.pop("port")) == ("127.0.0.1", "off", "3000")
    context = int(words.pop("max-total-tokens", "0") or 0)
    assert words.pop("max-input-tokens", None) == (str(context - 1) if context else None)
    cache = words.pop("kv-cache-dtype", None)
    return {
        "dtype": {"bfloat16": "bf16", "float16": "fp16"}[str(words.pop("dtype"))],
        "degree": int(str(words.pop("num-shard"))),
        "cuts": True,
        "reuse": {"0": False, "1": True}[server.environment["PREFIX_CACHING"]],
        "at_once": int(str(words.pop("max-batch-size"))),
        "context": context,
        **({"kv_cache_dtype": cache.removesuffix("fn")} if cache else {}),
        **({"enforce_eager": True} if words.pop("cuda-graphs", None) == "0" else {}),
        **words,  # type: ignore[dict-item]
    }


@pytest.mark.parametrize(
    ("name", "engine", "more", "read"),
    [
        (TRTLLM, "vllm", OF_TRTLLM, _read_trtllm), (TRTLLM, "sglang", {}, _read_trtllm),
        (TRTLLM, "transformers", {}, _read_trtllm), (TGI, "vllm", OF_TGI, _read_tgi), (TGI, "sglang", {}, _read_tgi),
    ],
)  # fmt: skip
def test_the_command_is_read_back_as_the_candidate_that_was_measured(
    name: str, engine: str, more: Mapping[str, tuple[Any, ...]], read: Callable[..., Any], tmp_path: Path
) -> None:
    rng = random.Random(17)
    for _ in range(HOW_MANY):
        candidate = _drawn(rng, engine, more)
        folder = _folder(tmp_path, candidate.dtype)
        made = _form(name, candidate, folder)
        assert read(made, folder) == _expected(candidate), (candidate, made.files)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"device": "cpu"}, "is written for GPUs, and this was measured on the cpu"),
        ({"workers": 2}, "has no argument for workers=2"),
        ({"max_batch_delay_ms": 5}, "has no argument for max_batch_delay_ms=5"),
        ({"options": {"block_size": 32}}, "has no argument for option block_size of vllm"),
        ({"options": {"VLLM_USE_V2": 1}}, "has no argument for option VLLM_USE_V2 of vllm"),
        ({"dtype": "fp32"}, "dtype fp32: it "),
        ({"engine": "attach", "options": {"url": "http://h"}}, "was measured as it was found"),
        ({"engine": "llamacpp", "options": {"n_batch": 64}}, "has no argument for option n_batch of llamacpp"),
    ],
)
def test_what_it_has_no_word_for_is_one_sentence(name: str, changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    candidate = Candidate(block=0, **{"engine": "vllm", "dtype": "bf16", "device": "cuda", **changes})
    with pytest.raises(UsageError, match=why) as caught:
        _form(name, candidate, _folder(tmp_path, "bf16"))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        (TRTLLM, {"kv_cache_dtype": "fp8_e5m2"}, "the type of the cache, and it is fp8_e5m2"),
        (TRTLLM, {"enforce_eager": True}, "running without CUDA graphs"),
        (TGI, {"max_num_batched_tokens": 512}, "the tokens of one step, and it is 512"),
        (TGI, {"enable_chunked_prefill": False}, "no argument that keeps prompts whole"),
        (TGI, {"kv_cache_dtype": "nvfp4"}, "no word for kv_cache_dtype nvfp4: it takes auto, fp8_e5m2, fp8_e4m3"),
    ],
)
def test_what_only_one_of_them_lacks_is_refused(name: str, options: dict[str, Any], why: str, tmp_path: Path) -> None:
    candidate = Candidate(block=0, engine="vllm", dtype="bf16", device="cuda", options=options)
    with pytest.raises(UsageError, match=why):
        _form(name, candidate, _folder(tmp_path, "bf16"))


def test_a_model_that_is_not_decoder_only_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "bf16")
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UsageError, match="written for decoder-only models; the folder holds t5"):
        _form(TGI, Candidate(block=0, engine="transformers", dtype="bf16", device="cuda"), folder)


@pytest.mark.parametrize("name", WRITERS)
def test_it_says_everywhere_that_it_was_not_yet_run(name: str, tmp_path: Path) -> None:
    server, _ = WRITERS[name]
    assert name in FORMS
    made = _form(name, Candidate(block=0, engine="vllm", dtype="bf16", device="cuda"), _folder(tmp_path, "bf16"))
    assert f"{server.title} was not yet run by dyno" in made.note
    assert f"# {server.title} was not yet run by dyno" in next(iter(made.files.values()))
    found = load_engine(server.name).probe()
    assert not found.is_available
    assert f"options.server: {server.name}" in found.reason
    assert found.note == f"{server.title} was not yet run here"
    assert EngineBlock.model_validate({"engine": server.name}).engine == server.name


@pytest.mark.heavy
def test_doctor_lists_both_as_not_yet_run() -> None:
    shown = CliRunner().invoke(doctor, ["--engines", "--json"]).output
    rows = {row["engine"]: row for row in json.loads(shown)["engines"]}
    for server, _ in WRITERS.values():
        assert rows[server.name]["features"]["hardware"] == "NVIDIA GPU (not yet run)"
        assert not rows[server.name]["is_available"]
