"""Adapter for CTranslate2: its C++ runtime on a model converted here from the Hugging Face folder and cached.

CTranslate2 works on token strings. The converted vocabulary is the decimal token ids themselves ("0", "1", ...), so no
tokenizer takes part and nothing can be lost between two spellings of one token.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.api import (
    Backend,
    Capabilities,
    EngineFacts,
    EngineSpec,
    GenerateParams,
    GenerateRequest,
    TokenEvent,
)
from engines.cache_folder import cache_root
from engines.environments.packages import package_availability
from engines.errors import ModelInvalid, RequestInvalid, Unavailable
from engines.generation.token_choice import check_request
from engines.hosted import CONVERTED_FEATURES, HostedEngine
from engines.models import hugging_face
from engines.models.cache import build_once, carried, check_unchanged, model_digest
from engines.models.folder import SpecialIds, special_ids
from engines.models.generation_defaults import model_notes
from engines.models.kind import model_kind
from engines.processes.call_in_child import answer_call, call_in_child
from engines.processes.threads import compute_threads
from engines.spec_check import check_spec

CONVERSION = 3
"""Part of the cache key: raise it when `convert` changes what it writes."""

CARRIED = "ct2"
"""The folder inside a model folder that may carry its conversion along, with what `form` gives in its cache.FORM file.
"""

_PACKAGES = ("ctranslate2",)
_CONVERTER_PACKAGES = ("torch", "transformers")
COMPUTE_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8_float32"}
_POLL_S = 0.5
_HANDOVER_S = 0.005
"""Steps that follow each other faster than this are handed over together: waking the listener every step costs a small
model more than the step itself. The first step is never held back."""


class CTranslate2Engine(HostedEngine):
    """CTranslate2 behind our model server."""

    name = "ctranslate2"
    packages = _PACKAGES
    features = CONVERTED_FEATURES

    def capabilities(self) -> Capabilities:
        return capabilities()

    def prepare(self, spec: EngineSpec) -> None:
        """Convert the model."""
        converted(spec.model_dir, COMPUTE_TYPES[spec.dtype], cache_root())


def capabilities() -> Capabilities:
    """What this machine's CTranslate2 computes in. It would run bf16 as fp32 where the CPU lacks it and only log so;
    here such a dtype is refused."""
    import ctranslate2

    supported = ctranslate2.get_supported_compute_types("cpu")
    usable = {dtype: name for dtype, name in COMPUTE_TYPES.items() if name in supported}
    reasons = {
        dtype: f"CTranslate2 {ctranslate2.__version__} has no {name} on this CPU and would compute in float32"
        for dtype, name in COMPUTE_TYPES.items()
        if name not in supported
    }
    reasons |= {
        "int4": "CTranslate2 has no int4 for T5 on a CPU",
        "tensor_parallel_degree": "CTranslate2 shards decoder-only models on GPUs only",
    }
    return Capabilities(effective_dtypes=usable, reasons=reasons, features=CONVERTED_FEATURES)


class CTranslate2Backend(Backend):
    """One translator in this process, on CPU, one batch at a time."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Converts at first use. Raises ModelInvalid, SpecInvalid, Unavailable, MemoryError."""
        check_spec(spec, capabilities())
        import ctranslate2

        self._special: SpecialIds = special_ids(spec.model_dir)
        self._vocab_size = model_kind(spec.model_dir).vocab_size
        compute_type = COMPUTE_TYPES[spec.dtype]
        began = time.monotonic()
        folder = converted(spec.model_dir, compute_type, cache_root())
        loading = time.monotonic()
        threads = compute_threads(spec)
        self._translator: Any = ctranslate2.Translator(
            str(folder), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
        )
        params = GenerateParams(max_new_tokens=4, min_new_tokens=4)
        for _ in self.generate([GenerateRequest(input_ids=(2, self._special.eos[0]), params=params)]):
            pass
        return EngineFacts(
            effective_dtype=str(self._translator.compute_type),
            versions=package_availability(_PACKAGES, "ctranslate2").versions,
            load_s=time.monotonic() - loading,
            notes=(
                f"converted model {folder}, ready in {loading - began:.1f} s (not part of load)",
                f"{threads} threads",
                *model_notes(spec.model_dir),
            ),
            converted_dir=str(folder),
        )

    def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        for request in batch:
            check_request(request, self._vocab_size)
            if request.params.do_sample and request.params.seed is not None:
                raise RequestInvalid(
                    "ctranslate2: seed with do_sample is not possible: its random generators are seeded once, when "
                    "their thread starts; leave the seed out"
                )
        groups: dict[GenerateParams, list[int]] = {}
        for index, request in enumerate(batch):
            groups.setdefault(_shared(request.params), []).append(index)
        return self._events(batch, groups)

    def _events(
        self, batch: Sequence[GenerateRequest], groups: dict[GenerateParams, list[int]]
    ) -> Iterator[Sequence[TokenEvent]]:
        for params, indices in groups.items():
            requests = [batch[index] for index in indices]
            if params.num_beams > 1:
                yield self._beam_search(requests, indices)
            else:
                yield from self._stream(requests, indices)

    def _arguments(self, requests: Sequence[GenerateRequest]) -> dict[str, Any]:
        """translate_batch's words for what the requests of one group share."""
        params = requests[0].params
        arguments: dict[str, Any] = {
            "source": [[str(token) for token in request.input_ids] for request in requests],
            "max_decoding_length": max(request.params.max_new_tokens for request in requests),
            "min_decoding_length": params.min_new_tokens,
            "beam_size": params.num_beams,
            "length_penalty": params.length_penalty,
            "repetition_penalty": params.repetition_penalty,
            "no_repeat_ngram_size": params.no_repeat_ngram_size,
            "max_input_length": 0,  # its default cuts sources at 1024 tokens without a word
            "return_end_token": True,
            "end_token": [str(token) for token in self._special.eos],
        }
        if params.do_sample:
            arguments |= {
                "sampling_topk": params.top_k,
                "sampling_topp": params.top_p,
                "sampling_temperature": params.temperature,
            }
        return arguments

    def _stream(self, requests: Sequence[GenerateRequest], indices: Sequence[int]) -> Iterator[Sequence[TokenEvent]]:
        """Greedy or sampling. CTranslate2 decodes on its own thread and hands over the tokens step by step."""
        steps: queue.SimpleQueue[list[TokenEvent]] = queue.SimpleQueue()
        collector = _Steps(requests, indices, self._special, steps)
        results: list[Any] = self._translator.translate_batch(
            **self._arguments(requests),
            return_scores=any(request.params.return_logprobs for request in requests),
            asynchronous=True,
            callback=collector.on_token,
        )
        try:
            left = len(requests)
            while left:
                try:
                    events = steps.get(timeout=_POLL_S)
                except queue.Empty:
                    if all(result.done() for result in results) and steps.empty():
                        yield collector.ends(results)
                        return
                    continue
                left -= sum(event.finish is not None for event in events)
                yield events
        finally:
            collector.is_cancelled = True
            for result in results:
                result.result()

    def _beam_search(self, requests: Sequence[GenerateRequest], indices: Sequence[int]) -> Sequence[TokenEvent]:
        """Every token of each best hypothesis at once. Its stopping rule is its own: hypotheses can differ from Hugging
        Face's where scores are close."""
        arguments = self._arguments(requests)
        found = [result.hypotheses[0] for result in self._translator.translate_batch(**arguments)]
        logprobs: list[list[float]] | None = None
        if requests[0].params.return_logprobs:
            scored = self._translator.score_batch(arguments["source"], found, max_input_length=0)
            logprobs = [result.log_probs for result in scored]
        events = []
        for row, (index, tokens) in enumerate(zip(indices, found, strict=True)):
            if not tokens:
                events.append(TokenEvent(index=index, token_id=None, finish="eos"))
            for position, token in enumerate(tokens):
                is_last = position == len(tokens) - 1
                finish = ("eos" if int(token) in self._special.eos else "length") if is_last else None
                logprob = None if logprobs is None else logprobs[row][position]
                events.append(TokenEvent(index=index, token_id=int(token), logprob=logprob, finish=finish))
        return events

    def close(self) -> None:
        self._translator = None


class _Steps:
    """Gathers CTranslate2's per-token callbacks (on its thread) into lists of events, a step or several in each."""

    def __init__(
        self,
        requests: Sequence[GenerateRequest],
        indices: Sequence[int],
        special: SpecialIds,
        steps: queue.SimpleQueue[list[TokenEvent]],
    ) -> None:
        self._limits = [request.params.max_new_tokens for request in requests]
        self._wants_logprob = [request.params.return_logprobs for request in requests]
        self._indices = indices
        self._open = set(range(len(requests)))
        self._special = special
        self._steps = steps
        self._events: list[TokenEvent] = []
        self._expected = len(requests)
        self._next_handover = 0.0
        self.is_cancelled = False

    def on_token(self, step: Any) -> bool:
        """True ends this row: its own limit is reached, or nobody is listening any more."""
        row = step.batch_id
        finish = None
        if step.token_id in self._special.eos:
            finish = "eos"
        elif step.step + 1 >= self._limits[row]:
            finish = "length"
        logprob = step.log_prob if self._wants_logprob[row] else None
        self._events.append(
            TokenEvent(index=self._indices[row], token_id=step.token_id, logprob=logprob, finish=finish)
        )
        if finish is not None:
            self._open.discard(row)
        self._expected -= 1
        if self._expected == 0:
            self._expected = len(self._open)
            now = time.monotonic()
            if not self._open or now >= self._next_handover:
                self._steps.put(self._events)
                self._events, self._next_handover = [], now + _HANDOVER_S
        return self.is_cancelled or finish is not None

    def ends(self, results: Sequence[Any]) -> list[TokenEvent]:
        """What is left once every result is there: the events not handed over, and an end for each row without one,
        which CTranslate2 had no answer for. Raises what ended the decoding early."""
        for result in results:
            result.result()
        silent = [TokenEvent(index=self._indices[row], token_id=None, finish="eos") for row in sorted(self._open)]
        return [*self._events, *silent]


def _shared(params: GenerateParams) -> GenerateParams:
    """What must be equal for requests to decode together. The limit and the logprobs are each request's own in greedy
    and sampling; a beam search has one limit for all."""
    if params.num_beams > 1:
        return params
    plain = replace(
        params, max_new_tokens=1, return_logprobs=False, length_penalty=1.0, seed=None, early_stopping=False
    )
    return plain if params.do_sample else replace(plain, temperature=1.0, top_k=0, top_p=1.0)


def form(compute_type: str) -> str:
    """What distinguishes one conversion from others of the same model."""
    return f"{compute_type}-v{CONVERSION}"


def converted(model_dir: Path, compute_type: str, cache: Path) -> Path:
    """The cached CTranslate2 folder of a Hugging Face folder. Raises ModelInvalid, Unavailable."""
    if found := carried(model_dir / CARRIED, form(compute_type)):
        return found
    import ctranslate2

    digest = model_digest(model_dir)
    name = f"{digest}-{compute_type}-ct{ctranslate2.__version__}-v{CONVERSION}"

    def build(folder: Path) -> None:
        available = package_availability(_CONVERTER_PACKAGES, "ctranslate2")
        if not available.is_available:
            raise Unavailable(f"ctranslate2 must convert {model_dir} first: {available.reason}")
        call_in_child("engines.adapters.ctranslate2", "convert", [str(model_dir), compute_type, str(folder)])
        check_unchanged(model_dir, digest)

    return build_once(cache / "ctranslate2" / name, build)


def convert(model_dir_text: str, compute_type: str, folder: str) -> None:
    """Write CTranslate2's form of the model to `folder`. Needs torch and transformers; serving does not."""
    from ctranslate2.converters import transformers as converters

    parents = {"t5": converters.T5Loader, "mt5": converters.MT5Loader, "umt5": converters.UMT5Loader}
    model_dir = Path(model_dir_text)
    loader = _loader(parents[model_kind(model_dir).model_type], special_ids(model_dir))
    model = hugging_face.load_model(model_dir, "fp32", "sdpa")
    try:
        spec = loader(model, None)
        spec.validate()
        spec.optimize(quantization=compute_type)
        spec.save(folder)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ModelInvalid(f"{model_dir}: CTranslate2 cannot convert it: {error}") from error


def _loader(parent: Any, special: SpecialIds) -> Any:
    class IdVocabularyLoader(parent):  # type: ignore[misc]
        """CTranslate2's own loader with the output scaling corrected and the ids as vocabulary."""

        def get_model_spec(self, model: Any) -> Any:
            model.config.tie_word_embeddings = hugging_face.scales_outputs(model)  # what CTranslate2 asks for scaling
            return super().get_model_spec(model)

        def get_vocabulary(self, model: Any, tokenizer: object) -> list[str]:
            return [str(token) for token in range(model.config.vocab_size)]

        def set_config(self, config: Any, model: Any, tokenizer: object) -> None:
            # CTranslate2 gives no answer to a source of nothing but its begin or end token, as invisible text is. Ends
            # are named in every call and the start is its own field, so that these may be the last row, which no text
            # consists of.
            config.bos_token = config.eos_token = config.unk_token = str(model.config.vocab_size - 1)
            config.decoder_start_token = str(special.start)

    return IdVocabularyLoader()


if __name__ == "__main__":
    answer_call(convert)
