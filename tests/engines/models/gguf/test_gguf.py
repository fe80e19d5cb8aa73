"""GGUF files: what is written, and what is refused from config.json and tokenizer.json before anything runs."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.errors import ModelInvalid
from engines.models.checkpoint.kind import kind_of
from engines.models.gguf.architectures import ARCHITECTURES, architecture, positions, rope_factors
from engines.models.gguf.cache import gguf_model
from engines.models.gguf.tokenizer import CONTROL, NORMAL, UNUSED, gguf_tokenizer
from engines.models.gguf.write import TYPES
from engines.models.random_weights.decoder_tokenizer import write_bpe_tokenizer

needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="gguf is not installed: pip install '.[llamacpp]'")
SIZES = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 6,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
    "vocab_size": 512,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "phi3"}, "phi3 cannot be written as GGUF here; these can: llama, mistral"),
        ({"model_type": "llama", "rope_scaling": {"type": "yarn", "factor": 2}}, "its rotary scaling 'yarn'"),
        ({"model_type": "llama", "hidden_act": "relu"}, "computes it with silu, config.json has 'relu'"),
        ({"model_type": "llama", "rope_parameters": {"partial_rotary_factor": 0.5}}, "only a part of each head"),
        ({"model_type": "gpt2", "activation_function": "relu"}, "computes it with gelu_new"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "has no scale_attn_by_inverse_layer_idx"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "has no final_logit_softcapping"),
        (
            {
                "model_type": "gemma3_text",
                "layer_types": ["full_attention", *["sliding_attention"] * 4, "full_attention"],
            },
            "follow no fixed period",
        ),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "its attention looks both ways"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(changes: dict[str, Any], sentence: str) -> None:
    config = {**SIZES, **changes}
    with pytest.raises(ModelInvalid) as caught:
        architecture(config, kind_of(config, Path("model")))
    assert sentence in str(caught.value)


def test_a_window_bounds_the_positions_where_llama_cpp_leaves_it_out() -> None:
    for model_type, expected in (("mistral", 12), ("gemma3_text", 128)):
        config = {**SIZES, "model_type": model_type, "sliding_window": 12}
        assert positions(config, kind_of(config, Path("model"))) == expected


@pytest.mark.heavy
def test_llama_3_s_scaling_is_the_one_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = {**SIZES, "model_type": "llama", "rope_parameters": LLAMA3}
    plain = 1.0 / 10000.0 ** (np.arange(0, 16, 2) / 16)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig(**{**SIZES, "rope_parameters": LLAMA3}), "cpu")
    factors = rope_factors(config, kind_of(config, Path("model")))
    assert factors is not None
    assert np.allclose(plain / factors, scaled.numpy(), rtol=1e-6)


def _tokenizer(folder: Path, **changes: Any) -> Path:
    """A folder with a byte-level tokenizer, parts of its file replaced."""
    write_bpe_tokenizer(folder, 512)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_a_tokenizer_is_written_with_its_special_and_spare_tokens(tmp_path: Path) -> None:
    found = gguf_tokenizer(_tokenizer(tmp_path), 520)
    assert (len(found.tokens), found.bos, found.pre) == (520, 1, "gpt-2")
    assert found.tokens[1:3] == ("<s>", "</s>")
    assert [found.types[number] for number in (1, 100, 519)] == [CONTROL, NORMAL, UNUSED]
    assert all(merge.count(" ") == 1 for merge in found.merges)


def _split(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, byte_level]}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pre_tokenizer": _split("[a-z]+|.")}, "it splits text by [a-z]+|.; known to llama.cpp and us: gpt-2"),
        ({"pre_tokenizer": None}, "it splits text by nothing"),
        ({"normalizer": {"type": "Lowercase"}}, "its normalizer changes the text"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "llama.cpp takes byte-level BPE or SentencePiece's"),
    ],
)
def test_a_tokenizer_that_gguf_cannot_name_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        gguf_tokenizer(_tokenizer(tmp_path, **changes), 512)
    assert sentence in str(caught.value)


def test_more_tokens_than_the_model_has_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match="token id 511 is outside the model's 500 vocabulary rows"):
        gguf_tokenizer(_tokenizer(tmp_path), 500)


@pytest.mark.heavy
@needs_gguf
@pytest.mark.parametrize("dtype", TYPES)
def test_a_file_is_written_once_and_holds_the_checkpoint(tmp_path: Path, dtype: str) -> None:
    import gguf
    from safetensors.numpy import load_file

    from tests.engines.models.decoder_folders import write_decoder

    folder = write_decoder(tmp_path / "model", "qwen2", tie_word_embeddings=False)
    path = gguf_model(folder, dtype, tmp_path / "cache", "llamacpp")
    written = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    own = load_file(folder / "model.safetensors")
    pairs = {"blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight", "output.weight": "lm_head.weight"}
    pairs["blk.1.attn_q.bias"] = "model.layers.1.self_attn.q_proj.bias"
    for name, checkpoint in pairs.items():
        tensor = written[name]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        scale = float(np.abs(own[checkpoint]).max())
        assert np.allclose(values, own[checkpoint], atol={"fp32": 0, "int4": 0.13}.get(dtype, 0.01) * scale, rtol=0)
    assert written["blk.0.attn_v.weight"].tensor_type.name == TYPES[dtype][0]
    assert written["output.weight"].tensor_type.name == TYPES[dtype][1]
    before = path.stat().st_mtime_ns
    assert gguf_model(folder, dtype, tmp_path / "cache", "llamacpp") == path
    assert path.stat().st_mtime_ns == before


@pytest.mark.heavy
@needs_gguf
def test_more_end_ids_than_a_file_names_are_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    from tests.engines.models.decoder_folders import write_decoder

    folder = write_decoder(tmp_path / "model", "llama")
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [2, 5, 7, 9]}))
    with pytest.raises(ModelInvalid, match="end at any of 4 tokens, and a GGUF file names 3; token 9"):
        gguf_model(folder, "fp32", tmp_path / "cache", "llamacpp")
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_every_architecture_states_its_keys() -> None:
    for model_type, one in ARCHITECTURES.items():
        config = {**SIZES, "model_type": model_type}
        keys = one.keys(config, kind_of(config, Path("model")))
        assert keys["block_count"] == 6
        assert keys["context_length"] == 128
