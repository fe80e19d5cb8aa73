"""A tiny random Llama as a GGUF file with SentencePiece's tokenizer, trained here on the prompts and on odd texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from engines.foreign_servers.llamacpp.tokenizer_check import texts

ROOT = Path(__file__).parents[4]
ROWS = 900
_HIDDEN, _HEADS, _KV_HEADS, _FEED = 64, 4, 2, 128


def pieces_of(folder: Path, *, has_prefix: bool) -> Any:
    """A trained SentencePieceProcessor: BPE, a token for every byte, single digits."""
    import sentencepiece

    rows = [
        json.loads(line)["prompt"] for line in (ROOT / "scenarios/assets/prompts/tasks.jsonl").read_text().splitlines()
    ]
    (folder / "corpus.txt").write_text("\n".join([*rows * 3, *texts() * 2]))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "pieces"), vocab_size=ROWS, model_type="bpe",
        byte_fallback=True, character_coverage=0.98, add_dummy_prefix=has_prefix, remove_extra_whitespaces=False,
        normalization_rule_name="identity", allow_whitespace_only_pieces=True, split_digits=True, minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "pieces.model"))


def write_piece_file(path: Path, pieces: Any, *, has_prefix: bool = True, model: str = "llama", pre: str = "") -> None:
    """A GGUF file with the tokens of `pieces`; its tokenizer is of kind `model`, and splits by `pre`."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(_HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_FEED)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_HIDDEN // _HEADS)
    writer.add_vocab_size(ROWS)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre or "default")
    writer.add_token_list([pieces.id_to_piece(each) for each in range(ROWS)])
    writer.add_token_scores([pieces.get_score(each) for each in range(ROWS)])
    writer.add_token_types([_kind(pieces, each) for each in range(ROWS)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(pieces.bos_id())
    writer.add_eos_token_id(pieces.eos_id())
    writer.add_unk_token_id(pieces.unk_id())
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(has_prefix)
    _add_weights(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kind(pieces: Any, token: int) -> int:
    kinds = ((2, pieces.is_unknown), (3, pieces.is_control), (6, pieces.is_byte))
    return next((kind for kind, holds in kinds if holds(token)), 1)


def _add_weights(writer: Any) -> None:
    rng = np.random.default_rng(0)
    kv = _HIDDEN * _KV_HEADS // _HEADS
    shapes = {
        "token_embd": (ROWS, _HIDDEN), "output": (ROWS, _HIDDEN), "output_norm": (_HIDDEN,),
        "blk.0.attn_norm": (_HIDDEN,), "blk.0.ffn_norm": (_HIDDEN,),
        "blk.0.attn_q": (_HIDDEN, _HIDDEN), "blk.0.attn_k": (kv, _HIDDEN), "blk.0.attn_v": (kv, _HIDDEN),
        "blk.0.attn_output": (_HIDDEN, _HIDDEN), "blk.0.ffn_gate": (_FEED, _HIDDEN),
        "blk.0.ffn_up": (_FEED, _HIDDEN), "blk.0.ffn_down": (_HIDDEN, _FEED),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", (rng.standard_normal(shape) * 0.2).astype(np.float32))
