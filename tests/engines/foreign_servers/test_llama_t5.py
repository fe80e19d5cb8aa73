"""The bench's GGUF writer for T5: each tensor of a checkpoint has its own name in the file."""

from __future__ import annotations

from tests.bench.engines import shapes
from tests.bench.engines.llama_t5 import gguf_name


def test_every_tensor_has_a_name_of_its_own() -> None:
    names = [name for name, _, _ in shapes.tensors("flan-t5-small")]
    found = [gguf_name(name) for name in names]
    assert None not in found
    assert len(set(found)) == len(names)
    for name, expected in (
        ("shared.weight", "token_embd.weight"),
        ("encoder.block.3.layer.1.layer_norm.weight", "enc.blk.3.ffn_norm.weight"),
        ("decoder.block.0.layer.1.EncDecAttention.o.weight", "dec.blk.0.cross_attn_o.weight"),
        ("decoder.block.7.layer.2.DenseReluDense.wi_0.weight", "dec.blk.7.ffn_gate.weight"),
    ):
        assert gguf_name(name) == expected
    assert gguf_name("encoder.embed_tokens.weight") is None
