"""One decode step of a torch T5 over static caches of fixed shape, optionally compiled by torch.compile.

Dynamic shapes were tried and recompiled for every other batch (25 to 58 s each, 3 layers, 2 busy cores), so everything
is static: rows are padded to the server's batch size, sources and answers live in caches of a fixed length. A batch
that does not fit runs uncompiled. Source of the idea: transformers' static cache; both caches static, first step eager.
"""

from __future__ import annotations

from typing import Any


class StaticStep:
    """The step and its caches, B rows by `source` positions by `target` tokens, reused from batch to batch."""

    def __init__(self, model: Any, *, rows: int, source: int, target: int, is_compiled: bool) -> None:
        import torch
        from transformers.cache_utils import EncoderDecoderCache, StaticCache

        self.rows, self.source, self.target = rows, source, target
        self._torch = torch
        config = model.decoder.config
        cache = EncoderDecoderCache(
            StaticCache(config=config, max_cache_len=target), StaticCache(config=config, max_cache_len=source)
        )

        def forward(ids: Any, encoded: Any, mask: Any) -> Any:
            return model(
                decoder_input_ids=ids,
                encoder_outputs=(encoded,),
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
            ).logits

        self._cache = cache
        self._plain = forward
        self._later = torch.compile(forward, dynamic=False) if is_compiled else forward
        self._forward: Any = forward

    def fits(self, rows: int, source: int, target: int) -> bool:
        """Whether a batch of these sizes can use the fixed shape."""
        return rows <= self.rows and source <= self.source and target <= self.target

    def begin(self, encoded: Any, mask: Any) -> None:
        """Take the encoder output [B, S, E] and mask [B, S] of a new batch; the step after this one runs uncompiled
        because it fills the cross-attention cache."""
        pad = self._torch.nn.functional.pad
        rows, length = self.rows - mask.shape[0], self.source - mask.shape[1]
        self._encoded = pad(encoded, (0, 0, 0, length, 0, rows))
        self._mask = pad(mask, (0, length, 0, rows))
        self._mask[mask.shape[0] :, 0] = 1  # a row may not be masked whole: its softmax would be NaN
        self._cache.reset()
        self._forward = self._plain

    def __call__(self, next_ids: Any) -> Any:
        """Logits [b, 1, V] for the next ids [b, 1]."""
        count = len(next_ids)
        ids = self._torch.zeros((self.rows, 1), dtype=self._torch.int64)
        ids[:count] = next_ids
        logits = self._forward(ids, self._encoded, self._mask)
        self._forward = self._later
        return logits[:count]
