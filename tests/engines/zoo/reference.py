"""T5 in NumPy and float64, one sequence at a time and without a cache: what every engine's answer is held against.

It shares nothing with the engines: shapes come from the arrays, the rest from the layout's own words, not from a
library's reading of config.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_new": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What a layout's folder means: its tensors under their plain names, and how they are put together."""

    tensors: Mapping[str, NDArray[np.float32]]
    heads: int
    activation: str
    scales: bool
    eos: tuple[int, ...] = (1,)
    start: int = 0
    buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6

    def get(self, name: str) -> Array:
        return np.asarray(self.tensors[name], dtype=np.float64)

    def greedy(self, ids: Sequence[int], limit: int) -> list[int]:
        """The most probable token each time, ending after eos."""
        memory, answer = self.encode(ids), [self.start]
        while len(answer) <= limit and (len(answer) == 1 or answer[-1] not in self.eos):
            answer.append(int(self.scores(memory, answer)[-1].argmax()))
        return answer[1:]

    def log_probabilities(self, ids: Sequence[int], answer: Sequence[int]) -> Array:
        """log P of every token after the start and each prefix of `answer`, [T, V]."""
        scores = self.scores(self.encode(ids), [self.start, *answer[:-1]])
        scores = scores - scores.max(axis=1, keepdims=True)
        result: Array = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return result

    def scores(self, memory: Array, target: Sequence[int]) -> Array:
        """Logits [T, V] for the decoder inputs `target`."""
        states = self.stack("decoder", target, memory)
        head = self.get("lm_head.weight" if "lm_head.weight" in self.tensors else "shared.weight")
        result: Array = states * (states.shape[1] ** -0.5 if self.scales else 1.0) @ head.T
        return result

    def encode(self, ids: Sequence[int]) -> Array:
        return self.stack("encoder", ids, None)

    def stack(self, stack: str, ids: Sequence[int], memory: Array | None) -> Array:
        x, bias, layer = self.get("shared.weight")[list(ids)], np.zeros(()), 0
        while f"{stack}.block.{layer}.layer.0.layer_norm.weight" in self.tensors:
            block = f"{stack}.block.{layer}.layer"
            table = f"{block}.0.SelfAttention.relative_attention_bias.weight"
            if table in self.tensors:
                bias = self.bias(self.get(table), len(ids), is_decoder=memory is not None)
            normed = self.norm(x, f"{block}.0.layer_norm.weight")
            x = x + self.attention(normed, normed, f"{block}.0.SelfAttention", bias)
            if memory is not None:
                normed = self.norm(x, f"{block}.1.layer_norm.weight")
                x = x + self.attention(normed, memory, f"{block}.1.EncDecAttention", np.zeros(()))
            last = f"{block}.{1 if memory is None else 2}"
            x = x + self.feed_forward(self.norm(x, f"{last}.layer_norm.weight"), f"{last}.DenseReluDense")
            layer += 1
        return self.norm(x, f"{stack}.final_layer_norm.weight")

    def norm(self, x: Array, name: str) -> Array:
        result: Array = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + self.epsilon) * self.get(name)
        return result

    def attention(self, x: Array, source: Array, name: str, bias: Array) -> Array:
        q, k, v = (
            (rows @ self.get(f"{name}.{part}.weight").T).reshape(len(rows), self.heads, -1)
            for part, rows in (("q", x), ("k", source), ("v", source))
        )
        mixed = []
        for head in range(self.heads):
            scores = q[:, head] @ k[:, head].T + (bias[head] if bias.ndim else 0.0)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, head])
        result: Array = np.concatenate(mixed, axis=1) @ self.get(f"{name}.o.weight").T
        return result

    def feed_forward(self, x: Array, name: str) -> Array:
        activation = ACTIVATIONS[self.activation]
        if f"{name}.wi_0.weight" in self.tensors:
            inner = activation(x @ self.get(f"{name}.wi_0.weight").T) * (x @ self.get(f"{name}.wi_1.weight").T)
        else:
            inner = activation(x @ self.get(f"{name}.wi.weight").T)
        result: Array = inner @ self.get(f"{name}.wo.weight").T
        return result

    def bias(self, table: Array, length: int, *, is_decoder: bool) -> Array:
        """[H, length, length], minus infinity where a decoder may not look."""
        found = np.full((self.heads, length, length), -np.inf)
        for query in range(length):
            for key in range(query + 1 if is_decoder else length):
                found[:, query, key] = table[self.bucket(key - query, is_decoder=is_decoder)]
        return found

    def bucket(self, distance: int, *, is_decoder: bool) -> int:
        """T5's bucket of key position minus query position: exact when near, logarithmic up to the longest."""
        count = self.buckets if is_decoder else self.buckets // 2
        first = 0 if is_decoder or distance <= 0 else count
        near, exact = abs(distance), count // 2
        if near < exact:
            return first + near
        far = math.log(near / exact) / math.log(self.max_distance / exact) * (count - exact)
        return first + min(exact + int(far), count - 1)
