"""The cache of a decoder while it is exported: the keys and values that a traced step gets, and those it gives back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
