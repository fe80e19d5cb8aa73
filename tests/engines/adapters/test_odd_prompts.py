"""Prompts of every odd kind beside good ones, through tokenizer, worker and adapter: the good ones' answers stay."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from engines.api import GenerateParams
from engines.models.tokenizer import Tokenizer
from engines.server.wire import Message
from engines.server.worker import Loaded, answer_batch
from tests.engines.models.t5_folders import BUNDLED, loaded

pytestmark = pytest.mark.heavy

GOOD = ("spell: 4 2", "sort: 9 1 5 3")
ODD = {
    "nothing": "",
    "invisible": "\u200b\ufeff\u00ad",
    "control characters": "\x00\x07\x1b[0m",
    "special tokens": "</s></s><pad><pad>",
    "pad alone": "<pad>",
    "huge": "one 2 " * 350,
    "one long word": "w" * 200,
    "emoji and marks": "\U0001f642\u0301\u0301 \u202e \U000e0041",
    "lone surrogate": "a \ud800 b",
}


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("engine", ["t5", "transformers", "accelerate", "ctranslate2", "onnxruntime", "openvino"])
def test_odd_prompts_are_answered_or_refused_and_hurt_no_neighbour(engine: str, beams: int) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    backend = loaded(engine, BUNDLED, batch_size=len(GOOD) + len(ODD))
    serving = Loaded(backend=backend, codec=Tokenizer.load(BUNDLED), facts={}, defaults={})
    params = asdict(GenerateParams(max_new_tokens=6, num_beams=beams))
    texts = [GOOD[0], *ODD.values(), GOOD[1]]
    jobs: list[Message] = [
        {"id": number, "text": text, "params": params, "wants_stream": False, "wants_details": False}
        for number, text in enumerate(texts)
    ]

    together = {answer["job"]: answer for answer in answer_batch(serving, jobs)}
    alone = {number: answer_batch(serving, [jobs[number]])[0] for number in (0, len(texts) - 1)}
    backend.close()

    assert set(together) == set(range(len(texts)))
    for number, answer in alone.items():
        assert together[number]["text"] == answer["text"] != ""
    for name, answer in zip(ODD, (together[number] for number in range(1, len(texts) - 1)), strict=True):
        is_served = answer.get("finish_reason") in ("eos", "length")
        assert is_served or answer["error"] == "ModelError", (name, answer)
        assert is_served is (name != "lone surrogate"), (name, answer)
