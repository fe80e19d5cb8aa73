"""Published shapes that can be served with random weights, by the names that scenarios use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from engines.models.random_weights.decoder_shapes import DECODER_SHAPES
from engines.models.random_weights.t5_shapes import T5_SHAPES
from engines.models.random_weights.tensor import Tensor


class Shape(Protocol):
    """One architecture with its sizes."""

    def config(self) -> dict[str, Any]:
        """config.json as the published checkpoint words it, with the special ids of the stand-in tokenizer."""
        ...

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of the checkpoint, Hugging Face's names."""
        ...

    @property
    def has_chat_template(self) -> bool:
        """Whether that tokenizer has one."""
        ...

    def write_tokenizer(self, folder: Path) -> None:
        """A stand-in tokenizer for the whole vocabulary."""
        ...


SHAPES: Mapping[str, Shape] = {**T5_SHAPES, **DECODER_SHAPES}
