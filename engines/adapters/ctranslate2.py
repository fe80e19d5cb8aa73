"""Adapter for CTranslate2: its C++ runtime on a model converted here from the Hugging Face folder and cached.

Prompts of a decoder-only model that are longer than the shortest of their group are fed step by step from there on,
while the others answer already, so a batch is decoded in groups of similar lengths, one after the other. Penalties
count only what went through the steps, so with them every prompt does. One minimum holds for a whole group; answers of
exactly so many tokens have ended before a longer one could change them. It counts the tokens of each answer, but with
penalties, or a prompt of one token, all steps: then others with a minimum share a group with prompts as long.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engines.adapters.ctranslate2_steps import Steps, continued, is_penalized, length_groups, words
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
from engines.errors import RequestInvalid
from engines.generation.token_choice import Decoding, check_request, renumbered, warm_up_request
from engines.hosted import CONVERTED_FEATURES, HostedEngine
from engines.models.checkpoint.generation_defaults import model_notes
from engines.models.checkpoint.kind import DECODER, SEQ2SEQ, SEQ2SEQ_TYPES, model_kind, why_beyond
from engines.models.checkpoint.special_ids import SpecialIds, special_ids
from engines.models.conversion.ctranslate2_cache import converted
from engines.processes.threads import compute_threads
from engines.spec_check import check_spec

_PACKAGES = ("ctranslate2",)
BEAM_NOTE = (
    "beam search ends once num_beams answers are complete, which is early_stopping=true; the default, false, continues "
    "while a better answer is possible"
)
RANGE_NOTE = "with penalties and 0 < min_new_tokens < max_new_tokens, only prompts as long as each other share a batch"
COMPUTE_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8_float32"}
FAMILIES = (
    *("gpt2", "opt", "bloom", "gptj", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma"),
    "gemma3_text",
)
"""Decoder-only families whose greedy answers and scores are Hugging Face's (tests/engines/adapters)."""
_LEFT_OUT = ("sliding_window", "rope_longrope")
"""Traits that act on its answers and not on its prompts."""
_POLL_S = 0.5


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
        "int4": "CTranslate2 has no int4 on a CPU",
        "gemma2": "CTranslate2 leaves out the soft caps of Gemma 2 and gives other answers",
        "soft_caps": "CTranslate2 leaves out soft caps and gives other answers",
        "rope_yarn": "CTranslate2 has no yarn scaling of rotary positions",
        "rope_dynamic": "CTranslate2 has no dynamic scaling of rotary positions",
        "tensor_parallel_degree": "CTranslate2 shards decoder-only models on GPUs only",
    }
    return Capabilities(
        effective_dtypes=usable,
        reasons=reasons,
        features=CONVERTED_FEATURES,
        model_kinds=(SEQ2SEQ, DECODER),
        architectures=(*SEQ2SEQ_TYPES, *FAMILIES),
        leaves_out=dict.fromkeys(_LEFT_OUT, FAMILIES),
    )


class CTranslate2Backend(Backend):
    """One translator in this process, on CPU, one batch at a time."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Converts at first use. Raises ModelInvalid, SpecInvalid, Unavailable, MemoryError."""
        check_spec(spec, capabilities())
        import ctranslate2

        self._special: SpecialIds = special_ids(spec.model_dir)
        self._kind = model_kind(spec.model_dir)
        compute_type = COMPUTE_TYPES[spec.dtype]
        began = time.monotonic()
        folder = converted(spec.model_dir, compute_type, cache_root())
        loading = time.monotonic()
        threads = compute_threads(spec)
        runtime = ctranslate2.Generator if self._kind.is_decoder else ctranslate2.Translator
        self._model: Any = runtime(
            str(folder), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
        )
        for _ in self.generate([warm_up_request(self._special)]):
            pass
        return EngineFacts(
            effective_dtype=str(self._model.compute_type),
            versions=package_availability(_PACKAGES, "ctranslate2").versions,
            load_s=time.monotonic() - loading,
            notes=(
                f"converted model {folder}, ready in {loading - began:.1f} s (not part of load)",
                f"{threads} threads",
                BEAM_NOTE,
                *([RANGE_NOTE] if self._kind.is_decoder else []),
                *model_notes(spec.model_dir),
            ),
            converted_dir=str(folder),
        )

    def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        for request in batch:
            self._check(request)
        alike: dict[tuple[GenerateParams, int], list[int]] = {}
        for index, request in enumerate(batch):
            params, length = request.params, len(request.input_ids)
            has_range = 0 < params.min_new_tokens < params.max_new_tokens
            counts_steps = has_range and (is_penalized(params) or length == 1)
            is_alike = self._kind.is_decoder and (params.num_beams > 1 or counts_steps)
            alike.setdefault((_shared(params), length if is_alike else 0), []).append(index)
        groups = [(params, part) for (params, _), indices in alike.items() for part in self._parts(batch, indices)]
        return self._events(batch, groups)

    def _parts(self, batch: Sequence[GenerateRequest], indices: Sequence[int]) -> list[Sequence[int]]:
        """The requests in groups that are decoded one after the other; see length_groups. With penalties every prompt
        goes token by token whatever its length, and an encoder's prompts are padded."""
        if not self._kind.is_decoder or is_penalized(batch[indices[0]].params):
            return [indices]
        lengths = [len(batch[index].input_ids) for index in indices]
        found = length_groups(lengths, [batch[index].params.max_new_tokens for index in indices])
        return [[indices[place] for place in group] for group in found]

    def _check(self, request: GenerateRequest) -> None:
        params, kind = request.params, self._kind
        check_request(request, kind.vocab_size, kind.max_positions)
        if reason := why_beyond("CTranslate2", kind, len(request.input_ids) + params.max_new_tokens, _LEFT_OUT):
            raise RequestInvalid(f"ctranslate2: {reason}")
        if kind.is_decoder and params.num_beams > 1 and is_penalized(params):
            raise RequestInvalid(
                "ctranslate2: num_beams with repetition_penalty or no_repeat_ngram_size is not possible for a "
                "decoder-only model: its penalties would leave out the prompt; choose one of them"
            )
        if params.num_beams > 1 and params.early_stopping == "never":
            raise RequestInvalid(f"ctranslate2: early_stopping 'never' is not possible: {BEAM_NOTE}; write true")
        if params.do_sample and params.seed is not None:
            raise RequestInvalid(
                "ctranslate2: seed with do_sample is not possible: its random generators are seeded once, when "
                "their thread starts; leave the seed out"
            )

    def _events(
        self, batch: Sequence[GenerateRequest], groups: Sequence[tuple[GenerateParams, Sequence[int]]]
    ) -> Iterator[Sequence[TokenEvent]]:
        for params, indices in groups:
            requests = [batch[index] for index in indices]
            if params.num_beams > 1:
                yield self._beam_search(requests, indices)
                continue
            run = self._penalized if self._kind.is_decoder and is_penalized(params) else self._stream
            steps = run(requests, indices)
            is_plain = not (params.do_sample or params.min_new_tokens or is_penalized(params))
            yield from steps if is_plain else self._scored(steps, requests, indices)

    def _run(self, requests: Sequence[GenerateRequest], fed: Sequence[int], **more: Any) -> list[Any]:
        """The library's results for the requests of one group; `fed` as from `_fed`."""
        params = requests[0].params
        texts = [words(request.input_ids) for request in requests]
        arguments: dict[str, Any] = {
            "beam_size": params.num_beams,
            "length_penalty": params.length_penalty,
            "repetition_penalty": params.repetition_penalty,
            "no_repeat_ngram_size": params.no_repeat_ngram_size,
            "return_end_token": True,
            "end_token": words(self._special.eos),
            **more,
        }
        if params.do_sample:
            arguments |= {
                "sampling_topk": params.top_k,
                "sampling_topp": params.top_p,
                "sampling_temperature": params.temperature,
            }
        longest = max(steps + request.params.max_new_tokens for steps, request in zip(fed, requests, strict=True))
        least = params.min_new_tokens  # see the module's docstring
        if least >= params.max_new_tokens:
            least = longest
        elif least and is_penalized(params):
            least += fed[0]
        results: list[Any]
        if self._kind.is_decoder:
            results = self._model.generate_batch(
                texts,
                max_length=longest,
                min_length=least,
                include_prompt_in_result=is_penalized(params),
                **arguments,
            )
            return results
        results = self._model.translate_batch(
            texts,
            max_decoding_length=longest,
            min_decoding_length=least,
            max_input_length=0,  # its default cuts sources at 1024 tokens without a word
            **arguments,
        )
        return results

    def _fed(self, requests: Sequence[GenerateRequest]) -> list[int]:
        """How many tokens of each prompt are fed step by step, see the module's docstring; their steps are no answer.
        With penalties all but the first, else what is beyond the shortest prompt."""
        if not self._kind.is_decoder:
            return [0] * len(requests)
        lengths = [len(request.input_ids) for request in requests]
        first = 1 if is_penalized(requests[0].params) else min(lengths)
        return [length - first for length in lengths]

    def _scores(self, requests: Sequence[GenerateRequest], answers: Sequence[Sequence[int]]) -> list[list[float]]:
        """The model's own log-probability of each token of each answer."""
        prompts = [words(request.input_ids) for request in requests]
        written = [words(answer) for answer in answers]
        if not self._kind.is_decoder:
            return [result.log_probs for result in self._model.score_batch(prompts, written, max_input_length=0)]
        whole = [[*prompt, *answer] for prompt, answer in zip(prompts, written, strict=True)]
        results = self._model.score_batch(whole, max_input_length=0)
        return [result.log_probs[len(prompt) - 1 :] for result, prompt in zip(results, prompts, strict=True)]

    def _stream(
        self, requests: Sequence[GenerateRequest], indices: Sequence[int]
    ) -> Generator[Sequence[TokenEvent], None, dict[int, list[int]]]:
        """Greedy or sampling. CTranslate2 decodes on its own thread and hands over the tokens step by step. At the end
        the rows that were stopped before a token of doubt, and their answers so far."""
        steps: queue.SimpleQueue[tuple[list[TokenEvent], int]] = queue.SimpleQueue()
        fed = self._fed(requests)
        collector = Steps(requests, fed, indices, self._special, steps)
        results = self._run(
            requests,
            fed,
            return_scores=any(request.params.return_logprobs for request in requests),
            asynchronous=True,
            callback=collector.on_token,
        )
        try:
            left = len(requests)
            while left:
                try:
                    events, ended = steps.get(timeout=_POLL_S)
                except queue.Empty:
                    if all(result.done() for result in results) and steps.empty():
                        yield collector.ends(results)
                        break
                    continue
                left -= ended
                if events:
                    yield events
        finally:
            collector.is_cancelled = True
            for result in results:
                result.result()
        return collector.doubts

    def _penalized(self, requests: Sequence[GenerateRequest], indices: Sequence[int]) -> Iterator[Sequence[TokenEvent]]:
        """Answers of a decoder-only model with penalties over prompt and answer. CTranslate2's leave out the prompt's
        first token: from where that could matter an answer takes a pass over the whole text for each token, and so does
        one with a penalty that is a reward, or with sampling, from its start."""
        params = requests[0].params
        if params.do_sample or params.repetition_penalty < 1:
            doubts: dict[int, list[int]] = {row: [] for row in range(len(requests))}
        else:
            doubts = yield from self._stream(requests, indices)
        rest = [continued(requests[row], answer) for row, answer in doubts.items()]
        if rest:
            yield from renumbered(self._recomputed(rest), [indices[row] for row in doubts])

    def _recomputed(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        decoding = Decoding(batch, self._special)
        texts = [list(request.input_ids) for request in batch]
        rows = list(range(len(batch)))
        while not decoding.is_done:
            logits = [np.array(self._model.forward_batch([words(texts[row])]))[0, -1] for row in rows]
            events = decoding.step(np.stack(logits))
            for event in events:
                texts[event.index] += [] if event.token_id is None or event.finish else [event.token_id]
            yield events
            if (keep := decoding.shrink()) is not None:
                rows = [rows[place] for place in keep]

    def _scored(
        self, steps: Iterator[Sequence[TokenEvent]], requests: Sequence[GenerateRequest], indices: Sequence[int]
    ) -> Iterator[Sequence[TokenEvent]]:
        """The steps with the model's own log-probabilities: CTranslate2 hands over those after its penalties, masks and
        temperature. An answer that wants them comes whole, once all of the group have ended."""
        wanting = {index: row for row, index in enumerate(indices) if requests[row].params.return_logprobs}
        held: list[TokenEvent] = []
        for events in steps:
            held += [event for event in events if event.index in wanting]
            if others := [event for event in events if event.index not in wanting]:
                yield others
        answers = {
            index: [event.token_id for event in held if event.index == index and event.token_id is not None]
            for index in wanting
        }
        asked = [index for index, answer in answers.items() if answer]
        scores = self._scores([requests[wanting[index]] for index in asked], [answers[index] for index in asked])
        left = {index: iter(found) for index, found in zip(asked, scores, strict=True)}
        if held:
            yield [
                event if event.token_id is None else replace(event, logprob=next(left[event.index])) for event in held
            ]

    def _beam_search(self, requests: Sequence[GenerateRequest], indices: Sequence[int]) -> Sequence[TokenEvent]:
        """Every token of each best hypothesis at once. It ends as Hugging Face's with early_stopping=True."""
        results = self._run(requests, self._fed(requests))
        found = [result.sequences_ids[0] if self._kind.is_decoder else result.hypotheses[0] for result in results]
        answers = [[int(token) for token in tokens] for tokens in found]
        logprobs = self._scores(requests, answers) if requests[0].params.return_logprobs else None
        events = []
        for row, (index, tokens) in enumerate(zip(indices, answers, strict=True)):
            if not tokens:
                events.append(TokenEvent(index=index, token_id=None, finish="eos"))
            for position, token in enumerate(tokens):
                is_last = position == len(tokens) - 1
                finish = ("eos" if token in self._special.eos else "length") if is_last else None
                logprob = None if logprobs is None else logprobs[row][position]
                events.append(TokenEvent(index=index, token_id=token, logprob=logprob, finish=finish))
        return events

    def close(self) -> None:
        self._model = None


def _shared(params: GenerateParams) -> GenerateParams:
    """What must be equal for requests to decode together. The limit, a minimum that is the limit and the logprobs are
    each request's own in greedy and sampling; a beam search has one limit for all."""
    if params.num_beams > 1:
        return params
    least, most = (1, 1) if params.min_new_tokens >= params.max_new_tokens else (params.min_new_tokens, 2)
    plain = replace(
        params,
        min_new_tokens=least,
        max_new_tokens=most,
        return_logprobs=False,
        length_penalty=1.0,
        seed=None,
        early_stopping=False,
    )
    return plain if params.do_sample else replace(plain, temperature=1.0, top_k=0, top_p=1.0)
