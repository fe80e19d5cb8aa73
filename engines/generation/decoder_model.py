"""A decoder-only Hugging Face torch model behind numpy arrays, for the torch generation loop: prefill, then steps.

Prompts are padded on the left, so that every answer begins in the same column; positions count real tokens only. The
prefill gives the logits of the first token, so a request costs one pass over the model per token, as in `generate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from engines.api import GenerateParams, GenerateRequest
from engines.generation.token_choice import Ids, Logits
from engines.generation.torch_model import DecodeModel, HuggingFaceModel, TorchModel, log_probabilities
from engines.generation.torch_static_step import StaticStep
from engines.models.checkpoint.special_ids import SpecialIds


class DecoderModel(HuggingFaceModel):
    """A decoder-only model. `static` takes the batches that fit it; the others grow their caches.

    `rope_switch` is the length above which longrope turns to its long factors, as Hugging Face does: the keys so far
    are then computed again, so a request that passes it must be alone in its batch (`rope_groups`).
    """

    def __init__(
        self,
        model: Any,
        special: SpecialIds,
        *,
        static: StaticSteps | None = None,
        device: str = "cpu",
        rope_switch: int | None = None,
    ) -> None:
        super().__init__(model, special, device)
        self._static = static
        self._rope_switch = rope_switch
        self._forward = Forward(model)
        self._steps: StaticSteps | _GrowingSteps = _GrowingSteps(self._forward, rope_switch)
        self._first: Any = None

    def begin(self, ids: Ids, mask: Ids, target: int) -> None:
        inputs, masks = self._on_device(ids, mask)
        fits = self._static is not None and self._static.fits(ids.shape[0], ids.shape[1], target)
        grown = _GrowingSteps(self._forward, self._rope_switch)
        self._steps = self._static if fits and self._static is not None else grown
        self.can_select = self._steps is grown
        with self._torch.inference_mode():
            self._first = self._steps.begin(inputs, masks)

    def step(self, next_ids: Ids) -> Logits:
        with self._torch.inference_mode():
            found = self._steps(*self._on_device(next_ids)) if self._first is None else self._first
            self._first = None
            logits: Logits = found[:, -1].float().cpu().numpy()
        return logits

    def select(self, positions: Ids) -> None:
        assert isinstance(self._steps, _GrowingSteps)
        rows = self._on_device(positions)[0]
        with self._torch.inference_mode():
            self._steps.select(rows)
            self._first = None if self._first is None else self._first[rows]

    def beams(self, ids: Ids, mask: Ids, params: GenerateParams) -> Ids:
        return self._searched(ids, mask, params, ids.shape[1])

    def teacher_forced(self, ids: Ids, mask: Ids, rows: Ids) -> Logits:
        whole = np.concatenate([ids, rows[:, :-1]], axis=1)
        masks = np.concatenate([mask, np.ones_like(rows[:, :-1])], axis=1)
        inputs, mask_all, targets = self._on_device(whole, masks, rows)
        with self._torch.inference_mode():
            logits = self._forward(inputs, mask_all, positions_of(mask_all))[:, ids.shape[1] - 1 :]
            return log_probabilities(logits, targets)


def decode_model(
    model: Any,
    special: SpecialIds,
    *,
    static: StaticStep | StaticSteps | None = None,
    device: str = "cpu",
    rope_switch: int | None = None,
) -> DecodeModel:
    """The module behind the loop's interface, by its kind."""
    if special.is_decoder:
        assert not isinstance(static, StaticStep)
        return DecoderModel(model, special, static=static, device=device, rope_switch=rope_switch)
    assert not isinstance(static, StaticSteps)
    return TorchModel(model, special, static=static, device=device)


def positions_of(mask: Any) -> Any:
    """Positions [B, S] of the real tokens in a mask [B, S]; 0 in the padding, as in Hugging Face's `generate`."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def rope_groups(batch: Sequence[GenerateRequest], indices: Sequence[int], switch: int | None) -> list[list[int]]:
    """`indices` in groups that may be decoded together: those that stay below longrope's switch, those whose prompt is
    beyond it already, and each that passes it alone. A finished row grows until its batch ends, so the longest answer
    counts for all of a group."""
    if switch is None:
        return [list(indices)] if indices else []
    sizes = {index: (len(batch[index].input_ids), batch[index].params.max_new_tokens) for index in indices}
    longest = max((new for prompt, new in sizes.values() if prompt + new <= switch), default=0)
    beyond = [index for index, (prompt, _) in sizes.items() if prompt > switch]
    below = [index for index, (prompt, new) in sizes.items() if prompt + longest <= switch and new <= longest]
    alone = [[index] for index in indices if index not in beyond and index not in below]
    return [group for group in (below, beyond, *alone) if group]


class Forward:
    """The module's forward pass with the arguments that it has; BLOOM and OPT take no positions or count their own.

    A row that has ended grows until its batch ends, maybe beyond the positions: it then stays at the last."""

    def __init__(self, model: Any) -> None:
        self.model = model
        known = inspect.signature(model.forward).parameters
        self._has_positions = "position_ids" in known
        self._last = getattr(model.config, "max_position_embeddings", 1 << 30) - 1
        self._can_keep = "logits_to_keep" in known

    def __call__(self, ids: Any, mask: Any, positions: Any, cache: Any = None, *, keeps_last: bool = False) -> Any:
        """Logits [B, S, V], or [B, 1, V] of the last column where the module can leave the others out."""
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self._has_positions:
            arguments["position_ids"] = positions.clamp(max=self._last)
        if self._can_keep and keeps_last:
            arguments["logits_to_keep"] = 1
        arguments |= {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
        return self.model(**arguments).logits


class _GrowingSteps:
    """Prefill and steps with a cache that grows."""

    def __init__(self, forward: Forward, rope_switch: int | None) -> None:
        self._forward = forward
        self._rope_switch = rope_switch

    def begin(self, ids: Any, mask: Any) -> Any:
        """Logits [B, 1, V] after the prompts [B, S]."""
        from transformers.cache_utils import DynamicCache

        self._ids, self._mask = ids, mask
        self._cache = DynamicCache(config=self._forward.model.config)
        return self._forward(ids, mask, positions_of(mask), self._cache, keeps_last=True)

    def __call__(self, next_ids: Any) -> Any:
        """Logits [B, 1, V] after the next ids [B, 1]."""
        import torch

        mask = torch.cat([self._mask, torch.ones_like(next_ids)], dim=1)
        if self._rope_switch is not None:
            ids = torch.cat([self._ids, next_ids], dim=1)
            if ids.shape[1] == self._rope_switch + 1:  # other factors from here on, for every key
                return self.begin(ids, mask)
            self._ids = ids
        self._mask = mask
        return self._forward(next_ids, mask, mask.sum(-1, keepdim=True) - 1, self._cache)

    def select(self, rows: Any) -> None:
        """Keep these rows only."""
        self._cache.batch_select_indices(rows)
        self._ids, self._mask = self._ids[rows], self._mask[rows]


class StaticSteps:
    """Prefill and steps over one cache of a fixed shape, `rows` by `source` + `target` positions, reused from batch to
    batch; the step is optionally compiled by torch.compile."""

    def __init__(self, model: Any, *, rows: int, source: int, target: int, is_compiled: bool) -> None:
        import torch
        from transformers.cache_utils import StaticCache

        self.rows, self.source, self.target = rows, source, target
        self._torch = torch
        self._forward = Forward(model)
        self._cache = StaticCache(config=model.config, max_cache_len=source + target)
        self._step: Any = torch.compile(self._forward, dynamic=False) if is_compiled else self._forward

    def fits(self, rows: int, source: int, target: int) -> bool:
        """Whether a batch of these sizes can use the fixed shape."""
        return rows <= self.rows and source <= self.source and target <= self.target

    def begin(self, ids: Any, mask: Any) -> Any:
        """Logits [b, 1, V] after the prompts [b, S]; never compiled, because its length changes."""
        torch, pad = self._torch, self._torch.nn.functional.pad
        self._count, length = ids.shape
        more = self.rows - self._count
        mask = pad(mask, (0, 0, 0, more))
        mask[self._count :, -1] = 1  # a row may not be masked whole: its softmax would be NaN
        later = torch.ones((self.rows, self.source + self.target - length), dtype=mask.dtype)
        self._mask = torch.cat([mask, later], dim=1)  # what is later is left out by the order of time
        self._positions = mask.sum(-1, keepdim=True) - 1
        self._cache.reset()
        logits = self._forward(pad(ids, (0, 0, 0, more)), self._mask, positions_of(mask), self._cache, keeps_last=True)
        return logits[: self._count]

    def __call__(self, next_ids: Any) -> Any:
        """Logits [b, 1, V] after the next ids [b, 1]."""
        ids = self._torch.nn.functional.pad(next_ids, (0, 0, 0, self.rows - self._count))
        self._positions = self._positions + 1
        logits: Any = self._step(ids, self._mask, self._positions, self._cache)
        return logits[: self._count]
