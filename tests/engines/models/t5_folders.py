"""Model folders and the Hugging Face yardstick that the adapter tests share."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from engines.api import Backend, EngineSpec, GenerateParams, GenerateRequest, TokenEvent
from engines.launching import load_backend
from engines.models.hugging_face import load_model
from engines.models.random_weights.folders import write_random_model
from engines.models.random_weights.t5_shapes import T5Shape
from engines.models.random_weights.t5_tokenizer import write_tokenizer

ROOT = Path(__file__).parents[3]
BUNDLED = ROOT / "scenarios" / "assets" / "flan-t5-bench"

TINY_FLAN = T5Shape(d_model=64, d_ff=128, num_heads=3, num_layers=2, d_kv=16, vocab_size=1100)
"""Inner width 48 != d_model; scaling its logits by 64^-0.5 moves log-probabilities by more than 1."""

TINY_V1 = T5Shape(
    d_model=64, d_ff=128, num_heads=3, num_layers=2, d_kv=16, vocab_size=1100, feed_forward_proj="relu", is_tied=True
)

MARGIN = 1e-4
"""Two tokens closer than this (nats) may change places between engines; the answer is then compared up to there."""


def write_model(folder: Path, shape: T5Shape, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_random_model(folder, shape, seed)
    return folder


def write_umt5(folder: Path) -> Path:
    """A tiny random umT5, whose layers each have a relative bias of their own."""
    from transformers import UMT5Config, UMT5ForConditionalGeneration

    sizes = {"d_model": 64, "d_ff": 128, "num_heads": 3, "num_layers": 2, "d_kv": 16, "vocab_size": 1100}
    torch.manual_seed(0)
    config = UMT5Config(**sizes, feed_forward_proj="gated-gelu", decoder_start_token_id=0, initializer_factor=0.5)
    model = UMT5ForConditionalGeneration(config)
    for block in (*model.encoder.block, *model.decoder.block):
        torch.nn.init.normal_(block.layer[0].SelfAttention.relative_attention_bias.weight)
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    model.save_pretrained(folder)
    write_tokenizer(folder, config.vocab_size)
    return folder


def loaded(engine: str, folder: Path, dtype: str = "fp32", **fields: Any) -> Backend:
    backend = load_backend(engine)
    backend.load(EngineSpec(engine=engine, model_dir=folder, dtype=dtype, threads=1, **fields))
    return backend


def requests(vocab_size: int, count: int = 6, *, seed: int = 0, **params: Any) -> list[GenerateRequest]:
    """Sources of different lengths; each request its own limit unless one is given."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        ids = (*(rng.randrange(3, vocab_size) for _ in range(rng.randrange(3, 40))), 1)
        limit = rng.choice((1, 7, 24, 150)) if "max_new_tokens" not in params else params["max_new_tokens"]
        fields: Mapping[str, Any] = {"return_logprobs": True, **params, "max_new_tokens": limit}
        found.append(GenerateRequest(input_ids=ids, params=GenerateParams(**fields)))
    return found


def answers(backend: Backend, batch: Sequence[GenerateRequest]) -> list[list[TokenEvent]]:
    """Events by request, with the contract of the stream checked on the way."""
    found: list[list[TokenEvent]] = [[] for _ in batch]
    for step in backend.generate(batch):
        assert step
        for event in step:
            assert not found[event.index] or found[event.index][-1].finish is None, "an event after the last one"
            found[event.index].append(event)
    assert all(events and events[-1].finish in ("eos", "length") for events in found)
    return found


def tokens(events: Sequence[TokenEvent]) -> list[int]:
    return [event.token_id for event in events if event.token_id is not None]


class Yardstick:
    """Hugging Face in fp32: greedy answers by a forward pass over everything so far, no cache, no padding."""

    def __init__(self, folder: Path) -> None:
        self.model = load_model(folder, "fp32", "eager")
        self.vocab_size: int = self.model.config.vocab_size

    def logprobs(self, request: GenerateRequest, answer: Sequence[int]) -> Any:
        """Teacher-forced log-softmax [T, V]."""
        with torch.inference_mode():
            logits = self.model(
                input_ids=torch.tensor([request.input_ids]), decoder_input_ids=torch.tensor([[0, *answer[:-1]]])
            ).logits
        return logits[0].log_softmax(-1)

    def check(self, request: GenerateRequest, events: Sequence[TokenEvent], tolerance: float = 1e-3) -> None:
        """Every token is HF's greedy choice and every log-probability HF's, or AssertionError."""
        answer = tokens(events)
        rows = self.logprobs(request, answer)
        for position, (event, row) in enumerate(zip(events, rows, strict=True)):
            assert event.token_id is not None
            assert event.logprob is not None
            assert abs(event.logprob - float(row[event.token_id])) < tolerance, f"logprob of token {position}"
            best = row.max()
            assert float(best - row[event.token_id]) <= MARGIN, f"token {position} is not the greedy choice"
        ends = [position for position, token in enumerate(answer) if token == 1]
        assert ends in ([], [len(answer) - 1])
        assert events[-1].finish == ("eos" if ends else "length")
        assert len(answer) <= request.params.max_new_tokens
        assert ends or len(answer) == request.params.max_new_tokens
