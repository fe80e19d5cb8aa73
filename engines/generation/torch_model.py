"""A Hugging Face torch model and its decode state behind numpy arrays, for the torch generation loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from engines.api import GenerateParams
from engines.generation.token_choice import Ids, Logits
from engines.generation.torch_static_step import StaticStep
from engines.models.checkpoint.special_ids import SpecialIds


class DecodeModel(Protocol):
    """What torch_loop drives: one batch at a time, begun, then stepped."""

    can_select: bool
    """Whether `select` may be called for the batch that was begun last."""

    def begin(self, ids: Ids, mask: Ids, target: int) -> None:
        """Encode a new batch: ids [B, S], mask [B, S], at most `target` new tokens."""
        ...

    def step(self, next_ids: Ids) -> Logits:
        """Logits [B, V] for the next ids [B, 1]."""
        ...

    def select(self, positions: Ids) -> None:
        """Keep these rows only."""
        ...

    def beams(self, ids: Ids, mask: Ids, params: GenerateParams) -> Ids:
        """The best hypothesis of every row [B, T], padded, without the start token."""
        ...

    def teacher_forced(self, ids: Ids, mask: Ids, rows: Ids) -> Logits:
        """log P of every token of `rows` [B, T] given the ones before it."""
        ...


class HuggingFaceModel(DecodeModel):
    """A module of transformers in this process: numpy arrays in and out.

    inference_mode belongs to the thread and is never held across a return.
    """

    def __init__(self, model: Any, special: SpecialIds, device: str) -> None:
        import torch

        self._torch = torch
        self._model = model
        self._special = special
        self._device = device
        self.can_select = True

    def _on_device(self, *arrays: Ids) -> list[Any]:
        return [self._torch.from_numpy(np.ascontiguousarray(array)).to(self._device) for array in arrays]

    def _searched(self, ids: Ids, mask: Ids, params: GenerateParams, first: int) -> Ids:
        """The best hypothesis of every row from column `first` on, by Hugging Face's own beam search."""
        inputs, masks = self._on_device(ids, mask)
        with self._torch.inference_mode():
            found = self._model.generate(
                input_ids=inputs, attention_mask=masks, generation_config=generation_config(params, self._special)
            )
        rows: Ids = found[:, first:].cpu().numpy()
        return rows


def log_probabilities(logits: Any, targets: Any) -> Logits:
    """log P [B, T] of the ids `targets` [B, T] under logits [B, T, V]."""
    scores: Logits = (
        logits.float().log_softmax(-1).gather(-1, targets[..., None].to(logits.device))[..., 0].cpu().numpy()
    )
    return scores


class TorchModel(HuggingFaceModel):
    """An encoder-decoder. `static` takes the batches that fit it; the others grow their caches."""

    def __init__(self, model: Any, special: SpecialIds, *, static: StaticStep | None = None, device: str = "cpu"):
        super().__init__(model, special, device)
        self._static = static
        self._step: StaticStep | _DynamicStep = _DynamicStep(model)

    def begin(self, ids: Ids, mask: Ids, target: int) -> None:
        inputs, masks = self._on_device(ids, mask)
        fits = self._static is not None and self._static.fits(ids.shape[0], ids.shape[1], target)
        self._step = self._static if fits and self._static is not None else _DynamicStep(self._model)
        self.can_select = isinstance(self._step, _DynamicStep)
        with self._torch.inference_mode():
            encoded = self._model.encoder(input_ids=inputs, attention_mask=masks).last_hidden_state
            self._step.begin(encoded, masks)

    def step(self, next_ids: Ids) -> Logits:
        with self._torch.inference_mode():
            logits: Logits = self._step(*self._on_device(next_ids))[:, -1].float().cpu().numpy()
        return logits

    def select(self, positions: Ids) -> None:
        assert isinstance(self._step, _DynamicStep)
        with self._torch.inference_mode():
            self._step.select(*self._on_device(positions))

    def beams(self, ids: Ids, mask: Ids, params: GenerateParams) -> Ids:
        return self._searched(ids, mask, params, 1)

    def teacher_forced(self, ids: Ids, mask: Ids, rows: Ids) -> Logits:
        start = np.full((len(rows), 1), self._special.start, dtype=rows.dtype)
        inputs, masks, fed, targets = self._on_device(ids, mask, np.concatenate([start, rows[:, :-1]], axis=1), rows)
        with self._torch.inference_mode():
            logits = self._model(input_ids=inputs, attention_mask=masks, decoder_input_ids=fed, use_cache=False).logits
            return log_probabilities(logits, targets)


class _DynamicStep:
    """The decode step as it is, with caches that grow."""

    def __init__(self, model: Any) -> None:
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache

        self._model = model
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def begin(self, encoded: Any, mask: Any) -> None:
        """Take the encoder output [B, S, E] and mask [B, S]."""
        self._encoded, self._mask = encoded, mask

    def __call__(self, next_ids: Any) -> Any:
        """Logits [B, 1, V] for the next ids [B, 1]."""
        return self._model(
            decoder_input_ids=next_ids,
            encoder_outputs=(self._encoded,),
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
        ).logits

    def select(self, positions: Any) -> None:
        """Keep these rows only."""
        self._cache.batch_select_indices(positions)
        self._encoded, self._mask = self._encoded[positions], self._mask[positions]


def generation_config(params: GenerateParams, special: SpecialIds) -> Any:
    """Hugging Face's own record for a beam search with `params`."""
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=params.max_new_tokens,
        min_new_tokens=params.min_new_tokens,
        num_beams=params.num_beams,
        length_penalty=params.length_penalty,
        early_stopping=params.early_stopping,
        repetition_penalty=params.repetition_penalty,
        no_repeat_ngram_size=params.no_repeat_ngram_size,
        do_sample=False,
        eos_token_id=list(special.eos),
        pad_token_id=special.pad,
        decoder_start_token_id=special.start,
    )


def until_eos(row: Ids, eos: Sequence[int], limit: int) -> list[int]:
    """The ids of `row` up to and including the first eos, at most `limit`."""
    ends = np.flatnonzero(np.isin(row, eos))
    end = int(ends[0]) + 1 if len(ends) else len(row)
    return [int(token) for token in row[: min(end, limit)]]
