"""Export of a decoder-only model folder to one ONNX graph, `decoder.onnx`.

ids [B,S], mask [B,P+S] (1 = real, padding on the left), past_k_i, past_v_i [B,G,P,D] -> logits [B,V] of the last
column, k_i, v_i [B,G,P+S,D]; P may be 0, so one graph reads the prompts and takes the steps.

The Hugging Face module is exported with its own arithmetic; only masks and attention are ours: windows, soft caps,
grouped heads and BLOOM's slopes in plain products that ONNX Runtime fuses, and none of it fixed to one length.
"""

# torch is not followed by mypy, so nn.Module has no type to subclass.
# mypy: disable-error-code="misc"

from __future__ import annotations

import inspect
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.errors import ModelInvalid
from engines.models import hugging_face
from engines.models.checkpoint.kind import ModelKind, model_kind
from engines.models.conversion.onnx_export import OPSET, names
from engines.models.conversion.traced_decoder import Past, TracedDecoder
from engines.processes.call_in_child import answer_call

_HIDDEN = torch.finfo(torch.float32).min


class Step(TracedDecoder):
    """See the module's docstring."""

    def __init__(self, model: Any, kind: ModelKind) -> None:
        slopes = None
        if model.config.model_type == "bloom":
            alibi = model.transformer.build_alibi_tensor(torch.ones((1, 2)), kind.heads, torch.float32)
            slopes = alibi[:, 0, 1].reshape(1, -1, 1, 1)
        super().__init__(model, "onnx")
        self._slopes: Tensor | None = slopes
        self._window = kind.sliding_window
        self._last = (kind.max_positions or 0) - 1  # a row that has ended grows until its batch ends
        if kind.rope_switch is not None:
            model.model.rotary_emb.rope_type = "default"  # short factors, and no look at the longest position
        known = inspect.signature(model.forward).parameters
        self._given = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        self._has_positions = "position_ids" in known

    def forward(self, ids: Tensor, mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Logits, then keys and values of every layer."""
        new, seen = ids.shape[1], past[0].shape[2]
        places = torch.arange(new, device=ids.device) + seen
        keys, queries = torch.arange(mask.shape[1], device=ids.device)[None, :], places[:, None]
        real = (mask[:, None, :] > 0) | (keys == queries)[None]  # padding sees itself: a row may not be hidden whole
        causal = (keys <= queries)[None] & real
        full = torch.where(causal, 0.0, _HIDDEN)[:, None]
        if self._slopes is not None:
            full = full + self._slopes * keys.to(torch.float32)  # softmax does not see the query's own place
        near = causal if self._window is None else causal & (keys > queries - self._window)[None]
        self.masks = {False: full, True: torch.where(near, 0.0, _HIDDEN)[:, None]}
        given = dict(self._given)
        if self._has_positions:
            given["position_ids"] = (mask.cumsum(-1) - 1).clamp(0, self._last)[:, -new:]
        cache = Past(past)
        logits = self.model(input_ids=ids, attention_mask=full, past_key_values=cache, use_cache=True, **given).logits
        return (logits[:, -1], *cache.present)

    def mixed(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float | None = None,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(2, 3)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        weights = torch.softmax(scores + self.masks[window is not None], dim=-1)
        return weights @ v


def export(model_dir: str, folder: str) -> None:
    """Write decoder.onnx (weights beside it) to `folder`. Raises ModelInvalid."""
    kind = model_kind(Path(model_dir))
    model = hugging_face.load_model(Path(model_dir), "fp32", "eager")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    shape = (2, kind.kv_heads, 4, kind.head_dim)
    past = tuple(torch.zeros(shape) for _ in range(2 * kind.layers))
    ids, mask = torch.ones((2, 3), dtype=torch.int64), torch.ones((2, 7), dtype=torch.int64)
    pasts, presents = names(kind.layers, "past_"), names(kind.layers, "")
    axes = {"ids": {0: "B", 1: "S"}, "mask": {0: "B", 1: "K"}, "logits": {0: "B"}}
    axes |= {name: {0: "B", 2: "P"} for name in pasts} | {name: {0: "B", 2: "K"} for name in presents}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's: shapes that are constants in branches of no matter here
            torch.onnx.export(
                Step(model, kind),
                (ids, mask, *past),
                str(Path(folder) / "decoder.onnx"),
                input_names=["ids", "mask", *pasts],
                output_names=["logits", *presents],
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
                external_data=True,
            )
    except (AttributeError, RuntimeError, ValueError, TypeError) as error:
        raise ModelInvalid(f"{model_dir}: torch cannot export it to ONNX: {str(error).splitlines()[0]}") from error


if __name__ == "__main__":
    answer_call(export)
