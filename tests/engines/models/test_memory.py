"""The memory model: its arithmetic by kind, and a real process beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from engines.errors import ModelInvalid
from engines.models.memory import (
    PROCESS_BYTES,
    Work,
    folder_size,
    is_quantized_folder,
    kept_tokens,
    memory,
    reference_dtype,
    shape_of_hub_id,
    shape_size,
    step_bytes,
)
from engines.models.random_weights.folders import random_model
from engines.models.random_weights.tensor import Tensor

ASSETS = Path(__file__).parents[3] / "scenarios" / "assets"
LLAMA = shape_size("llama-3.1-8b")
TOLERANCE = 0.2
"""Of the sum; what torch and the allocator keep beside it differs by version."""


@pytest.mark.parametrize(
    ("name", "prompt", "new", "tokens"),
    [
        ("llama-3.1-8b", 1000, 24, 32 * 1024),
        ("mistral-7b", 5888, 256, 32 * 6144),
        ("mistral-7b-v0.1", 5888, 256, 32 * 4096),
        ("gemma-2-2b", 5000, 24, 13 * 5024 + 13 * 4096),
        ("gemma-3-1b", 600, 24, 4 * 624 + 22 * 512),
        ("t5-small", 100, 20, 6 * 120),
    ],
)
def test_layers_keep_what_their_windows_let_them(name: str, prompt: int, new: int, tokens: int) -> None:
    assert kept_tokens(shape_size(name).kind, prompt, new) == tokens


def test_grouped_heads_dtypes_and_degrees_scale_the_sum() -> None:
    whole = memory(LLAMA, Work(dtype="bf16", rows=2, prompt_tokens=1000, new_tokens=24))
    half = memory(LLAMA, Work(dtype="bf16", rows=2, prompt_tokens=1000, new_tokens=24, degree=2))
    int4 = memory(LLAMA, Work(dtype="int4", rows=2, prompt_tokens=1000, new_tokens=24))

    assert whole.weights_bytes == 2 * 8_030_261_248
    assert whole.kv_bytes == 2 * 1024 * 32 * 2 * 8 * 128 * 2, "8 key-value heads of 32 heads, 131 kB a token"
    assert (half.weights_bytes, half.kv_bytes) == (whole.weights_bytes / 2, whole.kv_bytes / 2)
    assert int4.weights_bytes < 0.3 * whole.weights_bytes
    assert int4.kv_bytes == whole.kv_bytes
    assert "weights 16.06 + keys and values 0.27 (2 rows x 32,768 layer tokens x 2 x 8 heads x 128" in whole.explain()
    with pytest.raises(ModelInvalid, match="fp8"):
        memory(LLAMA, Work(dtype="fp8", rows=1, prompt_tokens=1, new_tokens=1))


def test_the_reference_takes_the_checkpoints_dtype_where_fp32_does_not_fit() -> None:
    assert reference_dtype(LLAMA, 64e9) == "fp32"
    assert reference_dtype(LLAMA, 25e9) == "bf16"
    assert reference_dtype(shape_size("t5-11b"), 25e9) == "fp32", "its checkpoint has no smaller dtype"
    assert reference_dtype(None, 1e9) == "fp32"


@pytest.mark.parametrize(
    ("hub_id", "shape"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("google/flan-t5-xxl", "flan-t5-xxl"),
        ("openai-community/gpt2-medium", "gpt2-medium"),
        ("gpt2", "gpt2"),
        ("mistralai/Mistral-7B-v0.1", "mistral-7b-v0.1"),
        ("mistralai/Mistral-7B-Instruct-v0.1", "mistral-7b-v0.1"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
        ("somebody/llama-3.1-80b", None),
    ],
)
def test_hub_ids_of_published_shapes_are_known_before_a_download(hub_id: str, shape: str | None) -> None:
    assert shape_of_hub_id(hub_id) == shape


@pytest.mark.parametrize(
    ("config", "is_quantized"),
    [
        ({}, False),
        ({"quantization_config": {"quant_method": "fp8"}}, True),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, True),
    ],
)
def test_a_folder_states_itself_that_its_weights_have_fewer_bits(
    tmp_path: Path, config: dict[str, object], is_quantized: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    assert is_quantized_folder(tmp_path) is is_quantized


_SERVE = """
import json, os, sys
from pathlib import Path
import psutil
from engines.api import EngineSpec, GenerateParams, GenerateRequest
from engines.launching import load_backend
backend = load_backend("transformers")
backend.load(EngineSpec(engine="transformers", model_dir=Path(sys.argv[1]), batch_size=4, threads=1))
request = GenerateRequest(input_ids=tuple(range(10, 74)), params=GenerateParams(max_new_tokens=4, min_new_tokens=4))
list(backend.generate([request] * 4))
print(json.dumps(psutil.Process().memory_info().rss))
"""


def _zeros(file: BinaryIO, tensor: Tensor, seed: int, dtype: str) -> None:
    """Values that take memory when they are loaded and no time to make: a hole in the file."""
    assert dtype == "BF16"
    file.seek(2 * tensor.size - 1, os.SEEK_CUR)
    file.write(b"\0")


@pytest.mark.heavy
def test_a_real_process_of_135_m_weights_takes_what_the_sum_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.models.random_weights.folders._write_values", _zeros)
    folder = random_model("smollm2-135m", 0, tmp_path)
    size = folder_size(folder)
    assert size is not None
    assert size.parameters == shape_size("smollm2-135m").parameters == 134_515_008
    need = memory(size, Work(dtype="fp32", rows=4, prompt_tokens=64, new_tokens=4))
    done = subprocess.run([sys.executable, "-c", _SERVE, str(folder)], capture_output=True, text=True, check=True)

    rss_bytes = json.loads(done.stdout.splitlines()[-1])
    assert rss_bytes == pytest.approx(need.total_bytes + PROCESS_BYTES, rel=TOLERANCE)


def test_a_step_reads_the_decoder_and_the_head_without_the_table() -> None:
    table = 1472 * 256
    decoder = ASSETS / "llama-bench"
    size = folder_size(decoder)
    assert size is not None
    assert step_bytes(decoder, "fp32") == 4.0 * (size.parameters - table), "its head stands beside the table"
    assert step_bytes(decoder, "int8") == 1.0625 * (size.parameters - table)
    assert step_bytes(decoder, "fp8") is None
    seq2seq = ASSETS / "flan-t5-bench"
    whole = folder_size(seq2seq)
    assert whole is not None
    read = step_bytes(seq2seq, "fp32")
    assert read is not None
    assert 0.4 < read / (4.0 * whole.parameters) < 0.7, "an encoder is not read by the steps of an answer"
