"""Tiny random Hugging Face checkpoints of every family member, and Hugging Face's own answers for them.

Default initialisation repeats one token for ever, so embeddings are scaled down, projections up, and norms and biases
are random: then ids vary and parity means something.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@dataclass(frozen=True, slots=True)
class Member:
    """One family member: the config class, and what differs from a small T5."""

    name: str
    kind: str
    fields: dict[str, Any]
    own_head: bool


FAMILY = (
    Member("t5-1.0", "T5", {"feed_forward_proj": "relu"}, own_head=False),
    Member("flan", "T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_heads": 3}, True),
    Member("mt5", "MT5", {"feed_forward_proj": "gated-gelu", "vocab_size": 520}, True),
    Member("byt5", "T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "vocab_size": 384,
                          "num_layers": 5, "num_decoder_layers": 2, "d_model": 72}, True),
    Member("ul2", "T5", {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False, "num_heads": 2, "d_kv": 64,
                         "d_model": 48}, True),
    Member("umt5", "UMT5", {"feed_forward_proj": "gated-gelu"}, True),
    Member("madlad", "T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "d_kv": 24,
                            "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}, True),
    Member("odd", "T5", {"feed_forward_proj": "gelu", "d_kv": 5, "num_heads": 3, "d_model": 33, "d_ff": 47,
                         "vocab_size": 101, "relative_attention_num_buckets": 12,
                         "relative_attention_max_distance": 40}, False),
)  # fmt: skip


def build(member: Member, seed: int = 0) -> Any:
    """The member as a Hugging Face model, eager attention, eval mode."""
    fields = {
        "vocab_size": 250, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4,
        "dropout_rate": 0.0, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
    } | member.fields  # fmt: skip
    torch.manual_seed(seed)
    config = getattr(transformers, f"{member.kind}Config")(**fields)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{member.kind}ForConditionalGeneration")(config).eval()
    if member.own_head:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            _fill(name, weight, config, member.own_head)
    return model


def _fill(name: str, weight: Any, config: Any, own_head: bool) -> None:
    if "layer_norm" in name:
        weight.uniform_(0.5, 1.5)
    elif "relative_attention_bias" in name:
        weight.normal_(0.0, 0.7)
    elif "lm_head" in name:
        weight.normal_(0.0, 1.0 if own_head else 0.05)
    elif name.startswith("shared"):
        weight.normal_(0.0, 0.3 if own_head else 0.12)
    elif ".q." in name or ".k." in name:
        weight.normal_(0.0, (1.2 / config.d_model**0.5) / config.d_kv**0.25)
    else:
        weight.normal_(0.0, 1.4 / weight.shape[1] ** 0.5)


def save(model: Any, folder: Path, member: Member) -> Path:
    """Write the folder as published checkpoints are written (a head of its own is kept, whatever the tie flag says)."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    for alias in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        state.pop(alias, None)
    if not member.own_head:
        state.pop("lm_head.weight", None)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()), encoding="utf-8")
    return folder


def prompts(count: int, vocab: int, seed: int, longest: int = 40) -> list[list[int]]:
    """Random inputs of mixed length, each ending in eos (1)."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [[*torch.randint(3, vocab, (n,), generator=generator).tolist(), 1] for n in lengths]


def padded(inputs: Sequence[Sequence[int]], pad: int) -> tuple[Any, Any]:
    """Right-padded ids and mask."""
    width = max(map(len, inputs))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in inputs])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in inputs])
    return ids, mask


def trimmed(row: Sequence[int], eos: Sequence[int]) -> list[int]:
    """Generated ids without the start token, cut after the first eos."""
    out: list[int] = []
    for token in row[1:]:
        out.append(int(token))
        if token in eos:
            break
    return out


def generated(model: Any, inputs: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
    """Hugging Face's new ids for a batch, in our form."""
    eos = model.config.eos_token_id
    eos = eos if isinstance(eos, list) else [eos]
    ids, mask = padded(inputs, model.config.pad_token_id)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        out = model.generate(input_ids=ids, attention_mask=mask, **options)
    return [trimmed(row, eos) for row in out.tolist()]
