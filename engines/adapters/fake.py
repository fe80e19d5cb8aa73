"""The fake engine: computes nothing and takes exactly a programmed time, the ground truth for tests of the harness."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from engines.adapters.fake_latency import law_of, number, stall_of
from engines.api import (
    Availability,
    Capabilities,
    EngineFacts,
    EngineSpec,
    GenerateRequest,
    TokenEvent,
)
from engines.errors import SpecInvalid
from engines.hosted import HostedEngine
from engines.option_values import FLAG, OptionValues, one_of
from engines.setting import OptionValue

DTYPES = {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16", "int8": "int8", "int4": "int4"}
"""Accepted dtypes and what they are reported to run as; bf16 falls back, so that fall-backs can be tested."""

OPTIONS = {
    "law": "service time of a batch: constant | lognormal | bimodal | stall (default constant)",
    "service_ms": "the law's base, milliseconds: constant value, lognormal median, bimodal fast mode (default 1)",
    "sigma": "lognormal: standard deviation of the logarithm (default 0.25)",
    "slow_ms": "bimodal: slow mode, milliseconds (default 10 x service_ms)",
    "slow_frac": "bimodal: probability of the slow mode (default 0.05)",
    "stall_after_s": "stall: seconds after load when the freeze begins (default 1)",
    "stall_ms": "stall: length of the freeze (default 1000)",
    "stall_every_s": "stall: the freeze comes again this often; 0 = once (default 0)",
    "per_item_ms": "added per request of the batch (default 0)",
    "token_ms": "added per decode step after the first (default 0)",
    "error_frac": "fraction of batches whose generation raises (default 0)",
    "wrong_answers_frac": "fraction of prompts, chosen by their text, that get a wrong answer (default 0)",
    "nonfinite_frac": "fraction of prompts, chosen by their text, whose log-probabilities are NaN (default 0)",
    "crash_after": "the worker kills itself on its n+1-th request; 0 = never (default 0)",
    "crash_on": "the worker kills itself on a prompt with this word (default: on none)",
    "hang_on": "the worker never answers a batch with this word (default: none)",
    "oom_on_load": "raise MemoryError while loading (default false)",
    "hang_on_start": "never finish loading (default false)",
    "load_ms": "time that loading takes (default 0)",
    "ballast_mib": "memory to hold (default 0)",
    "answers": "'echo', or a prompts file (JSON lines with prompt and reference) to answer from (default echo)",
    "slots": "rolling batch: requests decoded together (default 8)",
    "seed": "seed of every draw, with the worker's number (default 0)",
}

_VALUES = {
    **dict.fromkeys(OPTIONS, OptionValues(kind="float", low=0)),
    "law": one_of("constant", "lognormal", "bimodal", "stall"),
    **dict.fromkeys(("oom_on_load", "hang_on_start"), FLAG),
    **dict.fromkeys(("crash_on", "hang_on", "answers"), OptionValues(kind="text")),
}

_TIMES = (
    "law", "service_ms", "sigma", "slow_ms", "slow_frac", "stall_after_s", "stall_ms", "stall_every_s", "per_item_ms",
    "token_ms", "load_ms", "ballast_mib", "slots", "seed",
)  # fmt: skip
"""Options that cost time or memory and change no answer."""

EOS = 1


class WordTokenizer:
    """Words for tokens: split at white space, the id is a hash of the word, so it is the same in every process.

    Decodes only what this instance has encoded or been shown; anything else is '<unk>'.
    """

    def __init__(self) -> None:
        self._words: dict[int, str] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of the words, closed by eos."""
        return (*(self._id_of(word) for word in text.split()), EOS)

    def encode_rendered(self, text: str) -> tuple[int, ...]:
        """As `encode`: no template names this tokenizer's eos."""
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The words, joined by one blank; eos is skipped."""
        return " ".join(self._words.get(token, "<unk>") for token in ids if token != EOS)

    def _id_of(self, word: str) -> int:
        # 48 bits: a collision among a million words has probability 0.002
        token = 2 + int.from_bytes(hashlib.blake2b(word.encode(), digest_size=6).digest(), "big")
        self._words[token] = word
        return token


class FakeBackend:
    """A RollingBackend whose time, failures and answers are programmed by the spec's options."""

    def __init__(self) -> None:
        self.tokenizer = WordTokenizer()

    def load(self, spec: EngineSpec) -> EngineFacts:
        begin = time.monotonic()
        options = checked_options(spec.options)
        self._options = options
        self._law = law_of(options)
        self._stall = stall_of(options)
        self._per_item_ms = number(options, "per_item_ms", 0.0)
        self._token_ms = number(options, "token_ms", 0.0)
        self._rng = random.Random(f"{options.get('seed', 0)}/{os.environ.get('DYNO_WORKER', 0)}")
        self._answers = _answers(options)
        self._served = 0
        self._slots: dict[int, list[TokenEvent]] = {}
        self._last_slot = 0
        self._prefills = 0
        if options.get("hang_on_start"):
            time.sleep(1e9)
        if options.get("oom_on_load"):
            raise MemoryError("programmed by option oom_on_load")
        time.sleep(number(options, "load_ms", 0.0) / 1e3)
        self._ballast = bytearray(os.urandom(4096)) * int(256 * number(options, "ballast_mib", 0.0))
        self._loaded = time.monotonic()
        return EngineFacts(
            effective_dtype=DTYPES[spec.dtype], versions={"fake": "1"}, load_s=self._loaded - begin, notes=()
        )

    def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        begin = time.monotonic()
        self._count(batch)
        streams = [self._events(index, request) for index, request in enumerate(batch)]
        service_ms = self._law.sample_ms(self._rng) + self._per_item_ms * len(batch)
        if self._rng.random() < number(self._options, "error_frac", 0.0):
            raise RuntimeError("programmed by option error_frac")
        due_s = begin + service_ms / 1e3
        for step in range(max(map(len, streams))):
            self._sleep_until(begin, due_s + step * self._token_ms / 1e3)
            yield [events[step] for events in streams if step < len(events)]

    def admit(self, request: GenerateRequest) -> int | None:
        """Take a slot; it costs nothing, the next step pays service_ms for every new request."""
        if len(self._slots) >= int(number(self._options, "slots", 8.0)):
            return None
        self._count([request])
        self._last_slot += 1
        self._slots[self._last_slot] = self._events(self._last_slot, request)
        self._prefills += 1
        return self._last_slot

    def step(self) -> Sequence[TokenEvent]:
        """One token of every slot: token_ms, plus per newly admitted request one draw of the law and per_item_ms."""
        if not self._slots:
            return []
        begin = time.monotonic()
        prefills, self._prefills = self._prefills, 0
        wait_ms = self._token_ms
        wait_ms += sum(self._law.sample_ms(self._rng) + self._per_item_ms for _ in range(prefills))
        self._sleep_until(begin, begin + wait_ms / 1e3)
        events = [waiting.pop(0) for waiting in self._slots.values()]
        for event in events:
            if event.finish is not None:
                del self._slots[event.index]
        return events

    def cancel(self, index: int) -> None:
        self._slots.pop(index, None)

    def close(self) -> None:
        self._ballast = bytearray()

    def _count(self, requests: Sequence[GenerateRequest]) -> None:
        limit = int(number(self._options, "crash_after", 0.0))
        self._served += len(requests)
        if (limit and self._served > limit) or self._is_among("crash_on", requests):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._is_among("hang_on", requests):
            time.sleep(1e9)

    def _is_among(self, option: str, requests: Sequence[GenerateRequest]) -> bool:
        word = str(self._options.get(option, ""))
        return bool(word) and any(word in self.tokenizer.decode(request.input_ids).split() for request in requests)

    def _sleep_until(self, begin: float, due: float) -> None:
        if self._stall is not None:
            due = self._loaded + self._stall.end_s(begin - self._loaded, due - self._loaded)
        remaining = due - time.monotonic()
        if remaining > 0:
            time.sleep(remaining)

    def _events(self, index: int, request: GenerateRequest) -> list[TokenEvent]:
        """The request's whole answer, one event per token, the last with its finish."""
        prompt = self.tokenizer.decode(request.input_ids)
        answer = self._answers.get(prompt, prompt)
        if _is_chosen(prompt, "wrong", number(self._options, "wrong_answers_frac", 0.0)):
            answer = "wrong " + answer
        ids = list(self.tokenizer.encode(answer))
        limit = request.params.max_new_tokens
        if request.params.min_new_tokens >= len(ids):
            filler = self.tokenizer.encode("more")[0]
            ids = ids[:-1] + [filler] * (request.params.min_new_tokens - len(ids) + 1) + [EOS]
        is_cut = len(ids) > limit
        ids = ids[:limit]
        is_nonfinite = _is_chosen(prompt, "nonfinite", number(self._options, "nonfinite_frac", 0.0))
        logprob = (float("nan") if is_nonfinite else -0.125) if request.params.return_logprobs else None
        last = len(ids) - 1
        finish = "length" if is_cut else "eos"
        return [
            TokenEvent(index=index, token_id=token, logprob=logprob, finish=finish if at == last else None)
            for at, token in enumerate(ids)
        ]


class FakeEngine(HostedEngine):
    """The programmed engine; always available."""

    name = "fake"
    needs_model = False

    def probe(self) -> Availability:
        """Always available; needs no package."""
        return Availability(is_available=True, versions={"fake": "1"})

    def capabilities(self) -> Capabilities:
        """Every dtype (bf16 reported to run as fp32), rolling batches, no parallelism."""
        return Capabilities(
            effective_dtypes=DTYPES,
            max_tensor_parallel_degree=8,
            can_stream=True,
            has_rolling_batch=True,
            devices=("cpu",),
            options=OPTIONS,
            option_values=_VALUES,
            model_kinds=(),
            changes_answers={f"options.{name}": () for name in _TIMES},
        )


def checked_options(options: Mapping[str, OptionValue]) -> Mapping[str, OptionValue]:
    """`options`, if every name is known. Raises SpecInvalid."""
    for name in options:
        if name not in OPTIONS:
            raise SpecInvalid(f"fake: unknown option {name!r}; known: {', '.join(OPTIONS)}")
    return options


def _answers(options: Mapping[str, OptionValue]) -> dict[str, str]:
    """Prompt (white space normalised) -> answer, from the file that option `answers` names. Raises SpecInvalid."""
    source = str(options.get("answers", "echo"))
    if source == "echo":
        return {}
    try:
        lines = Path(source).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        return {" ".join(row["prompt"].split()): row["reference"] for row in rows if row.get("reference")}
    except (OSError, ValueError, KeyError) as error:
        raise SpecInvalid(f"fake: option answers={source!r}: not a readable prompts file: {error}") from error


def _is_chosen(prompt: str, purpose: str, frac: float) -> bool:
    """Whether `prompt` is among the `frac` of all prompts, the same ones in every process and run."""
    digest = hashlib.blake2b(f"{purpose}\0{prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < frac * 2.0**64
