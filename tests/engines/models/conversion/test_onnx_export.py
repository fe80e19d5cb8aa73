"""The hand-written modules behind the ONNX graphs equal Hugging Face's model, in torch, past every bucket edge."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engines.models import hugging_face
from engines.models.conversion import onnx_export
from engines.models.random_weights.t5_shapes import T5Shape
from tests.engines.models.t5_folders import TINY_FLAN, TINY_V1, write_model

pytestmark = pytest.mark.heavy


def stepwise_logits(model: Any, ids: torch.Tensor, mask: torch.Tensor, fed: torch.Tensor) -> torch.Tensor:
    """Logits [B, T, V] of feeding `fed` [B, T] one token at a time, from an empty past."""
    encoder, decoder = onnx_export.Encoder(model), onnx_export.Decoder(model)
    cross = encoder(ids, mask)
    past = [torch.zeros((len(ids), model.config.num_heads, 0, model.config.d_kv)) for _ in cross]
    rows = []
    for position in range(fed.shape[1]):
        logits, *past = decoder(fed[:, position : position + 1], mask, past, cross)
        rows.append(logits)
    return torch.stack(rows, dim=1)


@pytest.fixture(scope="module", params=[TINY_FLAN, TINY_V1], ids=["flan", "v1"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    shape: T5Shape = request.param
    return hugging_face.load_model(write_model(tmp_path_factory.mktemp("model"), shape), "fp32", "eager")


def case(model: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """150 source and 140 target positions (buckets saturate at 91 and 113), one row padded."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, model.config.vocab_size, (2, 150), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 60:] = 0
    return ids, mask, torch.randint(3, model.config.vocab_size, (2, 140), generator=generator)


def test_every_step_equals_the_whole_forward_pass(model: Any) -> None:
    ids, mask, fed = case(model)
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=mask, decoder_input_ids=fed, use_cache=False).logits
        found = stepwise_logits(model, ids, mask, fed)

    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_a_wrong_output_scaling_is_seen(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, mask, fed = case(model)
    right = hugging_face.scales_outputs(model)
    monkeypatch.setattr(hugging_face, "scales_outputs", lambda _: not right)

    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=mask, decoder_input_ids=fed[:, :1], use_cache=False).logits
        found = stepwise_logits(model, ids, mask, fed[:, :1])

    assert (found.log_softmax(-1) - expected.log_softmax(-1)).abs().max() > 0.1
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "silu", "relu"])
def test_activations_are_hugging_faces(activation: str) -> None:
    from transformers.activations import ACT2FN

    x = torch.linspace(-6, 6, 101)

    torch.testing.assert_close(onnx_export._activated(x, activation), ACT2FN[activation](x), rtol=0, atol=1e-6)
