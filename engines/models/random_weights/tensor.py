"""One tensor of a checkpoint with random weights: its name, its shape and how its values spread."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor to write: values are mean + std * N(0, 1)."""

    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0

    @property
    def size(self) -> int:
        """How many values it holds."""
        return prod(self.shape)
