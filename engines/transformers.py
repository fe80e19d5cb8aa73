"""Hugging Face transformers on torch: the reference every other engine's answers are compared with.

Greedy decoding and sampling run an own loop over the model's forward pass and its dynamic cache, because `generate` has
one set of parameters for a whole batch; beams go through `generate`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.api import (
    Backend,
    Capabilities,
    EngineFacts,
    EngineSpec,
    GenerateParams,
    GenerateRequest,
    TokenEvent,
)
from engines.decoding import Decoding, Ids, Logits, check_request, padded, renumbered
from engines.errors import ModelInvalid, SpecInvalid
from engines.model_folder import SpecialIds, special_ids
from engines.server.hosted import HostedEngine
from engines.spec_check import check_spec, choice, flag, package_availability, whole_number
from engines.threads import compute_threads
from engines.transformers_compiled import CompiledStep

_PACKAGES = ("torch", "transformers")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # names in /proc/cpuinfo on x86 and Arm
_OPTIONS = {
    "compile": "true: torch.compile the decode step at load, 30 s and more (needs a C++ compiler)",
    "compile_source_tokens": "longest source the compiled step takes; longer batches run uncompiled (default 128)",
    "compile_new_tokens": "most new tokens the compiled step gives; longer batches run uncompiled (default 128)",
    "attn": "attention implementation: sdpa (default) or eager",
}


class TransformersEngine(HostedEngine):
    """transformers behind our model server."""

    name = "transformers"
    packages = _PACKAGES

    def capabilities(self) -> Capabilities:
        return capabilities()


def capabilities() -> Capabilities:
    """The same for the engine and its backend."""
    return Capabilities(
        effective_dtypes={
            "fp32": "fp32",
            "bf16": "bf16" if has_native_bf16() else "bf16 (emulated)",
            "fp16": "fp16 (wo in fp32)",  # Hugging Face keeps T5's FFN output layer in fp32, or it overflows
            "int8": "int8 (dynamic, torch)",
        },
        options=_OPTIONS,
        reasons={
            "int4": "torch has no int4 linear layers on this path",
            "tensor_parallel_degree": "transformers shards T5 across GPUs only, and this adapter runs on the CPU",
        },
    )


def has_native_bf16() -> bool:
    """Whether this CPU has bf16 arithmetic; without it torch converts to fp32 and back, usually slower than fp32."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return bool(lines) and bool(_BF16_FLAGS & set(lines[0].split()))


class TransformersBackend(Backend):
    """One model in this process, on CPU."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Raises ModelInvalid, SpecInvalid, MemoryError."""
        began = time.monotonic()
        check_spec(spec, capabilities())
        is_compiled, attention = flag(spec, "compile", False), choice(spec, "attn", ("sdpa", "eager"), "sdpa")
        if is_compiled and spec.dtype == "int8":
            raise SpecInvalid(
                "transformers: option compile with dtype 'int8' refused: torch does not compile its int8 layers"
            )
        import torch

        self._torch = torch
        torch.set_num_threads(compute_threads(spec))
        self._special: SpecialIds = special_ids(spec.model_dir)
        self._model = load_model(spec.model_dir, spec.dtype, attention)
        self._compiled: CompiledStep | None = None
        if is_compiled:
            self._compiled = CompiledStep(
                self._model,
                rows=spec.batch_size,
                source=whole_number(spec, "compile_source_tokens", 128),
                target=whole_number(spec, "compile_new_tokens", 128),
            )
        self._warm_up()
        notes = [f"attention {attention}", f"{torch.get_num_threads()} threads"]
        if spec.dtype == "bf16" and not has_native_bf16():
            notes.append("this CPU has no bf16 instructions: torch converts to fp32 and back")
        if is_compiled:
            notes.append("decode step compiled by torch.compile with a static cache")
        return EngineFacts(
            effective_dtype=capabilities().effective_dtypes[spec.dtype],
            versions=package_availability(_PACKAGES, "transformers").versions,
            load_s=time.monotonic() - began,
            notes=tuple(notes),
        )

    def _warm_up(self) -> None:
        """One short request, so that no user's request pays for compiling or first-touch allocation."""
        params = GenerateParams(max_new_tokens=4, min_new_tokens=4)
        for _ in self.generate([GenerateRequest(input_ids=(2, self._special.eos[0]), params=params)]):
            pass

    def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        for request in batch:
            check_request(request, self._model.config.vocab_size)
        greedy = [index for index, request in enumerate(batch) if request.params.num_beams == 1]
        beams: dict[GenerateParams, list[int]] = {}
        for index, request in enumerate(batch):
            if request.params.num_beams > 1:
                beams.setdefault(request.params, []).append(index)
        return self._events(batch, greedy, beams)

    def _events(
        self, batch: Sequence[GenerateRequest], greedy: Sequence[int], beams: dict[GenerateParams, list[int]]
    ) -> Iterator[Sequence[TokenEvent]]:
        if greedy:
            yield from renumbered(self._decode([batch[index] for index in greedy]), greedy)
        for indices in beams.values():
            with self._torch.inference_mode():
                events = self._beam_search([batch[index] for index in indices], indices)
            yield events

    def _decode(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        ids, mask = (self._torch.from_numpy(array) for array in padded(batch, self._special.pad))
        with self._torch.inference_mode():  # never held across a yield: the mode belongs to the thread
            encoded = self._model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        longest = max(request.params.max_new_tokens for request in batch)
        step: CompiledStep | _DynamicStep
        if self._compiled is not None and self._compiled.fits(len(batch), int(mask.shape[1]), longest):
            step = self._compiled
        else:
            step = _DynamicStep(self._model)
        decoding = Decoding(batch, self._special)
        with self._torch.inference_mode():
            step.begin(encoded, mask)
        while not decoding.is_done:
            with self._torch.inference_mode():
                logits = step(decoding.next_ids)[:, -1].float().numpy()
            yield decoding.step(logits)
            keep = decoding.shrink() if isinstance(step, _DynamicStep) else None
            if keep is not None and isinstance(step, _DynamicStep):
                with self._torch.inference_mode():
                    step.select(keep)

    def _beam_search(self, batch: Sequence[GenerateRequest], indices: Sequence[int]) -> Sequence[TokenEvent]:
        """Every token of each best hypothesis at once."""
        params = batch[0].params
        ids, mask = (self._torch.from_numpy(array) for array in padded(batch, self._special.pad))
        found = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=self._generation_config(params),
            return_dict_in_generate=True,
        )
        rows = found.sequences[:, 1:].numpy()  # without the start token
        answers = [until_eos(row, self._special.eos, params.max_new_tokens) for row in rows]
        logprobs = self._teacher_forced(ids, mask, rows) if params.return_logprobs else None
        events = []
        for row, (index, answer) in enumerate(zip(indices, answers, strict=True)):
            for position, token in enumerate(answer):
                is_last = position == len(answer) - 1
                finish = ("eos" if token in self._special.eos else "length") if is_last else None
                logprob = None if logprobs is None else float(logprobs[row, position])
                events.append(TokenEvent(index=index, token_id=token, logprob=logprob, finish=finish))
        return events

    def _generation_config(self, params: GenerateParams) -> Any:
        from transformers import GenerationConfig

        return GenerationConfig(
            max_new_tokens=params.max_new_tokens,
            min_new_tokens=params.min_new_tokens,
            num_beams=params.num_beams,
            length_penalty=params.length_penalty,
            repetition_penalty=params.repetition_penalty,
            no_repeat_ngram_size=params.no_repeat_ngram_size,
            do_sample=False,
            eos_token_id=list(self._special.eos),
            pad_token_id=self._special.pad,
            decoder_start_token_id=self._special.start,
        )

    def _teacher_forced(self, ids: Any, mask: Any, rows: Ids) -> Logits:
        """log P of every token of `rows` [B, T] given the ones before it, one forward pass."""
        targets = self._torch.from_numpy(rows.copy())
        start = self._torch.full((len(rows), 1), self._special.start)
        fed = self._torch.cat([start, targets[:, :-1]], dim=1)
        logits = self._model(input_ids=ids, attention_mask=mask, decoder_input_ids=fed, use_cache=False).logits
        scores: Logits = logits.float().log_softmax(-1).gather(-1, targets[..., None])[..., 0].numpy()
        return scores

    def close(self) -> None:
        self._model = self._compiled = None


class _DynamicStep:
    """The decode step as it is, with caches that grow."""

    def __init__(self, model: Any) -> None:
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache

        self._model = model
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def begin(self, encoded: Any, mask: Any) -> None:
        """Take the encoder output [B, S, E] and mask [B, S]."""
        self._encoded, self._mask = encoded, mask

    def __call__(self, next_ids: Ids) -> Any:
        """Logits [B, 1, V] for the next ids [B, 1]."""
        import torch

        return self._model(
            decoder_input_ids=torch.from_numpy(next_ids),
            encoder_outputs=(self._encoded,),
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
        ).logits

    def select(self, positions: Ids) -> None:
        """Keep these rows only."""
        import torch

        rows = torch.from_numpy(positions)
        self._cache.batch_select_indices(rows)
        self._encoded, self._mask = self._encoded[rows], self._mask[rows]


def scales_outputs(model: Any) -> bool:
    """Whether this Hugging Face model multiplies decoder outputs by d_model^-0.5 before the head.

    transformers 5 forces `tie_word_embeddings` to true on load and keeps T5's answer in `scale_decoder_outputs`; its
    mT5 never scales. Whoever still asks `tie_word_embeddings` scales FLAN and mT5 wrongly.
    """
    config = model.config
    if config.model_type == "mt5":
        return False
    return bool(getattr(config, "scale_decoder_outputs", config.tie_word_embeddings))


def load_model(model_dir: Path, dtype: str, attention: str) -> Any:
    """The folder's model in evaluation mode. dtype: fp32 | bf16 | fp16 | int8."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(dtype, torch.float32)
    try:
        model, found = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            str(model_dir),
            dtype=torch_dtype,
            attn_implementation=attention,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelInvalid(f"{model_dir}: transformers cannot load it: {reason}") from error
    missing = sorted(found["missing_keys"])
    if missing:  # transformers would go on with random numbers in their place
        raise ModelInvalid(
            f"{model_dir}: the weights lack {len(missing)} tensors (first: {missing[0]}); download the model again"
        )
    return _quantized(model.eval()) if dtype == "int8" else model.eval()


def _quantized(model: Any) -> Any:
    """Every Linear with int8 weights (per tensor) and activations quantized on the fly, by torch's own tool."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, in two ways, since torch 2.10; there through 2.13
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


def until_eos(row: Ids, eos: Sequence[int], limit: int) -> list[int]:
    """The ids of `row` up to and including the first eos, at most `limit`."""
    ends = np.flatnonzero(np.isin(row, eos))
    end = int(ends[0]) + 1 if len(ends) else len(row)
    return [int(token) for token in row[: min(end, limit)]]
