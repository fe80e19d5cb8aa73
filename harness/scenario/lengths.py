"""Lengths in a scenario (`workload.lengths`): how many tokens every measured request has, and its answer."""

from __future__ import annotations

import random
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from harness.scenario.fields import AtLeastOne, AtLeastZero, Strict, expected
from harness.scenario.load_kinds import Load, TraceLoad


class LengthRange(Strict):
    """A length of each request, drawn from the run's seed: any from `min` to `max`, all equally likely."""

    min: AtLeastOne
    max: AtLeastOne

    @model_validator(mode="after")
    def _is_ascending(self) -> LengthRange:
        if self.min > self.max:
            raise expected("min up to max", f"{self.min} to {self.max}", "exchange them")
        return self


def _form(length: Any) -> str:
    return "range" if isinstance(length, dict | LengthRange) else "one"


Length = Annotated[
    Annotated[AtLeastOne, Tag("one")] | Annotated[LengthRange, Tag("range")],
    Discriminator(_form),
    Field(description="a number of tokens, or a range that each request draws from: {min: 400, max: 512}"),
]


class Lengths(Strict):
    """Tokens of every measured request; inputs are cut from a corpus of real text."""

    input: Annotated[
        Length | None, Field(description="tokens of each prompt, with what tokenizer and chat template add")
    ] = None
    shared: Annotated[
        AtLeastZero, Field(description="tokens of each input that all of them begin with, as with a system prompt")
    ] = 0
    output: Annotated[Length | None, Field(description="new tokens of each answer, neither fewer nor more")] = None

    @model_validator(mode="after")
    def _is_not_empty(self) -> Lengths:
        if self.input is None and self.output is None:
            raise expected("input, output or both", "neither", "write lengths: {input: 512, output: 128}")
        if self.shared and self.shared >= shortest(self.input):
            raise expected("shared below lengths.input", self.shared, "each input needs tokens that no other has")
        return self


def shortest(length: int | LengthRange | None) -> int:
    """Tokens of the shortest request; 0 where no length is stated."""
    return length.min if isinstance(length, LengthRange) else length or 0


def longest(length: int | LengthRange | None) -> int:
    """Tokens of the longest request; 0 where no length is stated."""
    return length.max if isinstance(length, LengthRange) else length or 0


def drawn(length: int | LengthRange | None, number: int, seed: str) -> tuple[int, ...]:
    """The lengths of `number` requests; () where none is stated."""
    chance = random.Random(seed)
    return tuple(chance.randint(shortest(length), longest(length)) for _ in range(number)) if length else ()


def check_lengths(
    lengths: Lengths | None, corpus: str | None, may_repeat: bool, load: Load, locustfile: str | None
) -> None:
    """Refuses lengths beside a load that has its own, and a corpus from which nothing would be cut."""
    if lengths is not None and isinstance(load, TraceLoad):
        raise expected("no lengths beside load.kind trace, which has its own", "both", "remove lengths")
    if lengths is not None and locustfile is not None:
        raise expected("no lengths beside locustfile", "both", "its classes make their own requests")
    if not cuts_inputs(lengths, load) and (corpus is not None or may_repeat):
        raise expected(
            "a corpus only beside lengths.input or load.kind trace",
            corpus or "corpus_may_repeat: true",
            "write lengths: {input: 512}",
        )


def cuts_inputs(lengths: Lengths | None, load: Load) -> bool:
    """Whether requests may carry texts of a corpus: where a trace or `lengths` may state how long they are."""
    return isinstance(load, TraceLoad) or (lengths is not None and lengths.input is not None)
