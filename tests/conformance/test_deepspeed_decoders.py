"""DeepSpeed on a decoder-only model over two ranks: Hugging Face's greedy tokens, alone and in a batch."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import torch

from engines.api import EngineSpec
from engines.launching import load_engine
from engines.models.hugging_face import default_attention, load_model
from engines.models.tokenizer import Tokenizer
from tests.engines.models.decoder_folders import write_decoder

pytestmark = pytest.mark.heavy

TEXTS = ("x", "a text, with blanks", "spell 42 and then the rest of a longer sentence, on and on")
NEW = 20


def test_two_ranks_give_hugging_faces_tokens(own_cache: None, tmp_path: Path) -> None:
    engine = load_engine("deepspeed")
    if not (found := engine.probe()).is_available:
        pytest.skip(f"deepspeed cannot run here: {found.reason}")
    folder = write_decoder(tmp_path / "llama", "llama")
    spec = EngineSpec(
        engine="deepspeed",
        model_dir=folder,
        tensor_parallel_degree=2,
        batch_size=4,
        threads=1,
        options={"communication": "gloo"},
    )
    asked = {"max_new_tokens": NEW, "min_new_tokens": NEW, "details": True}
    with engine.launch(spec, tmp_path / "work", 120.0) as running:
        url = f"{running.endpoint.url}/invocations"
        for batch in (TEXTS, TEXTS[1:2]):
            body = {"inputs": list(batch), "parameters": asked}
            rows = httpx.post(url, json=body, timeout=60.0, trust_env=False).raise_for_status().json()
            assert [row["details"]["tokens"] for row in rows] == [_hugging_faces(folder, text) for text in batch]
        assert any("LinearAllreduce" in note for note in running.facts.notes)


def _hugging_faces(folder: Path, text: str) -> list[int]:
    ids = torch.tensor([Tokenizer.load(folder).encode(text)])
    model = load_model(folder, "fp32", default_attention(folder))
    with torch.inference_mode():
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW
        )
    tokens: list[int] = found[0, ids.shape[1] :].tolist()
    return tokens
