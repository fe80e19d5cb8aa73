"""The T5 forward pass in NumPy, float64: the reference that the native engine is tested against.

Takes the same checkpoint tensors and the same bias table, and nothing else of the engine. Source: engines.md 1.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from engines.t5.bias import buckets_of
from engines.t5.config import T5Config
from engines.t5.weights import Checkpoint

Array = npt.NDArray[np.float64]

_ERF = np.vectorize(math.erf, otypes=[np.float64])

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu_new": lambda x: 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1.0 + _ERF(x / math.sqrt(2.0))),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
}


class Reference:
    """One model in float64. Slow and plain on purpose."""

    def __init__(self, config: T5Config, checkpoint: Checkpoint) -> None:
        """Tensors are read when used."""
        self.config, self.checkpoint = config, checkpoint

    def encode(self, ids: Sequence[int]) -> Array:
        """Final-normed encoder states [S, E]."""
        config = self.config
        x = self._read("shared.weight", config.vocab, config.d_model)[list(ids)]
        for layer in range(config.encoder_layers):
            block = f"encoder.block.{layer}.layer"
            n = self._norm(x, f"{block}.0.layer_norm.weight")
            x = x + self._attend(n, n, f"{block}.0.SelfAttention", self._bias("encoder", layer, len(ids)))
            x = x + self._feed_forward(x, f"{block}.1")
        return self._norm(x, "encoder.final_layer_norm.weight")

    def logits(self, ids: Sequence[int], target: Sequence[int]) -> Array:
        """Logits [T, V] for the decoder inputs `target` (start token first)."""
        config, states = self.config, self.encode(ids)
        x = self._read("shared.weight", config.vocab, config.d_model)[list(target)]
        future = np.triu(np.full((len(target), len(target)), -np.inf), 1)
        for layer in range(config.decoder_layers):
            block = f"decoder.block.{layer}.layer"
            n = self._norm(x, f"{block}.0.layer_norm.weight")
            bias = self._bias("decoder", layer, len(target)) + future
            x = x + self._attend(n, n, f"{block}.0.SelfAttention", bias)
            n = self._norm(x, f"{block}.1.layer_norm.weight")
            x = x + self._attend(n, states, f"{block}.1.EncDecAttention", None)
            x = x + self._feed_forward(x, f"{block}.2")
        x = self._norm(x, "decoder.final_layer_norm.weight") * config.head_scale
        name = "lm_head.weight" if "lm_head.weight" in self.checkpoint else "shared.weight"
        return x @ self._read(name, config.vocab, config.d_model).T

    def _read(self, name: str, *shape: int) -> Array:
        return self.checkpoint.read(name, shape).astype(np.float64)

    def _norm(self, x: Array, name: str) -> Array:
        scale: Array = 1.0 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.config.eps)
        return x * scale * self._read(name, self.config.d_model)

    def _heads(self, x: Array, name: str) -> Array:
        """[rows, E] -> [H, rows, D]."""
        config = self.config
        y = x @ self._read(name, config.inner, config.d_model).T
        return y.reshape(len(x), config.heads, config.d_kv).swapaxes(0, 1)

    def _attend(self, x: Array, source: Array, prefix: str, bias: Array | None) -> Array:
        q = self._heads(x, f"{prefix}.q.weight")
        k, v = self._heads(source, f"{prefix}.k.weight"), self._heads(source, f"{prefix}.v.weight")
        scores = q @ k.swapaxes(1, 2)
        if bias is not None:
            scores = scores + bias
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed: Array = (weights @ v).swapaxes(0, 1).reshape(len(x), self.config.inner)
        return mixed @ self._read(f"{prefix}.o.weight", self.config.d_model, self.config.inner).T

    def _bias(self, stack: str, layer: int, length: int) -> Array:
        """[H, length, length]: the layer's own table, else the first layer's."""
        config = self.config
        names = [
            f"{stack}.block.{n}.layer.0.SelfAttention.relative_attention_bias.weight" for n in dict.fromkeys((layer, 0))
        ]
        name = next(n for n in names if n in self.checkpoint)
        position = np.arange(length)
        index = buckets_of(
            position[None, :] - position[:, None],
            bidirectional=stack == "encoder", buckets=config.buckets, max_distance=config.max_distance,
        )  # fmt: skip
        return np.moveaxis(self._read(name, config.buckets, config.heads)[index], 2, 0)

    def _feed_forward(self, x: Array, layer: str) -> Array:
        config, dense = self.config, f"{layer}.DenseReluDense"
        n = self._norm(x, f"{layer}.layer_norm.weight")
        act = ACTIVATIONS[config.activation]
        if config.is_gated:
            gate = n @ self._read(f"{dense}.wi_0.weight", config.d_ff, config.d_model).T
            hidden = act(gate) * (n @ self._read(f"{dense}.wi_1.weight", config.d_ff, config.d_model).T)
        else:
            hidden = act(n @ self._read(f"{dense}.wi.weight", config.d_ff, config.d_model).T)
        return hidden @ self._read(f"{dense}.wo.weight", config.d_model, config.d_ff).T
