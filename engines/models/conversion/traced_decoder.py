"""A decoder-only module as it is traced for an export: Hugging Face's arithmetic with a cache and attention of ours."""

# torch is not followed by mypy, so nn.Module has no type to subclass.
# mypy: disable-error-code="misc"

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class Past:
    """What Hugging Face's modules ask of a cache: keys and values of every layer, longer by the new ones. [B,G,P,D],
    with G key-value heads and P positions."""

    is_compileable = False

    def __init__(self, past: tuple[Tensor, ...]) -> None:
        self._past = past
        self.present: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The layer's keys and values, old and new."""
        old_keys, old_values = self._past[2 * layer_idx : 2 * layer_idx + 2]
        found = torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)
        self.present += found
        return found

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens so far."""
        return int(self._past[2 * layer_idx].shape[2])


class TracedDecoder(nn.Module):
    """The module with each layer's attention replaced by `mixed`. `attention` is the name under which transformers
    knows it."""

    def __init__(self, model: Any, attention: str) -> None:
        super().__init__()
        self.model = model
        self.masks: dict[bool, Tensor] = {}
        """Whether a layer looks back a window only -> what is added to its scores."""
        family = model.config.model_type
        if family == "gptj":
            for block in model.transformer.h:
                block.attn._attn = self._gptj
        elif family == "bloom":
            model.transformer.build_alibi_tensor = lambda *_, **__: None  # its slopes are part of the mask here
            for block in model.transformer.h:
                block.self_attention.forward = partial(self._bloom, block.self_attention)
        else:
            from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

            ALL_ATTENTION_FUNCTIONS.register(attention, self._attend)
            model.config._attn_implementation = attention

    def mixed(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float | None = None,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        """The values [B,H,S,D] that queries [B,H,S,D] get of keys and values [B,H,K,D], under the masks; `scale` None
        is the root of D's inverse."""
        raise NotImplementedError

    def _attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        _mask: Any,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """transformers' attention interface."""
        from transformers.integrations.sdpa_attention import repeat_kv

        groups = getattr(module, "num_key_value_groups", 1)
        keys, values = (repeat_kv(part, groups) if groups > 1 else part for part in (key, value))
        return self.mixed(query, keys, values, scaling, sliding_window, softcap).transpose(1, 2).contiguous(), None

    def _gptj(self, query: Tensor, key: Tensor, value: Tensor, _mask: Any = None) -> tuple[Tensor, None]:
        return self.mixed(query, key, value), None

    def _bloom(
        self, module: Any, hidden_states: Tensor, residual: Tensor, layer_past: Past, **_: Any
    ) -> tuple[Tensor, None]:
        query, key, value = module._reshape(module.query_key_value(hidden_states))
        keys, values = layer_past.update(key, value, module.layer_idx)
        return module.dense(self.mixed(query, keys, values).transpose(1, 2).flatten(2)) + residual, None
