"""Field types shared by the parts of a scenario: what each accepts, and the sentence that refuses anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from engines.nearest import nearest
from engines.setting import OptionValue


class Strict(BaseModel):
    """Frozen; unknown keys forbidden; no silent conversion ('8' is not 8)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def expected(what: str, got: object, hint: str = "") -> PydanticCustomError:
    """The error 'expected WHAT, got GOT; HINT'; the loader puts file, line and field path in front."""
    return PydanticCustomError("expected", "{text}", {"text": sentence(what, got, hint)})


LONGEST_SHOWN = 400
"""Characters of a wrong value that a message repeats."""


def sentence(what: str, got: object, hint: str = "") -> str:
    """'expected WHAT, got GOT; HINT'."""
    shown = "null" if got is None else str(got).lower() if isinstance(got, bool) else repr(got)
    shown = shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}..."
    return f"expected {what}, got {shown}" + (f"; {hint}" if hint else "")


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """'did you mean 'x'?' for the nearest known word, else ''."""
    near = nearest(str(word), known)
    return f"did you mean {near!r}?" if near else ""


def one_of(what: str, known: Iterable[str], removed: Mapping[str, str] | None = None) -> Callable[[Any], Any]:
    """A validator that accepts only the words of `known`; refuses others with the nearest one, or with what `removed`
    advises about a word that once was known."""
    words = tuple(known)
    advice = removed or {}

    def check(word: Any) -> Any:
        if word in words and isinstance(word, str):
            return word
        hint = advice.get(str(word)) or did_you_mean(word, words)
        raise expected(f"{what}: one of {', '.join(words)}", word, hint)

    return check


def _whole(number: Any) -> Any:
    """1e3 is a number in YAML 1.2, and 1000 is meant by it."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def one_or_more(scalar_or_list: Any) -> Any:
    """An axis may be written as one value or as a list; an empty list is refused."""
    if isinstance(scalar_or_list, list | tuple):
        if not scalar_or_list:
            raise expected("at least one value", [], "remove the key to take its default")
        written = [repr(value) for value in scalar_or_list]
        repeated = next((text for text in written if written.count(text) > 1), None)
        if repeated:
            raise expected("every value once", list(scalar_or_list), f"remove the second {repeated}")
        return tuple(scalar_or_list)
    return (scalar_or_list,)


_SYNONYMS = {
    "float32": "fp32", "float": "fp32", "f32": "fp32", "bfloat16": "bf16", "float16": "fp16", "half": "fp16",
    "f16": "fp16", "i8": "int8", "q8": "int8", "i4": "int4",
}  # fmt: skip
"""What people write -> the word that is meant."""


def known_or_own(what: str, known: Iterable[str]) -> Callable[[Any], Any]:
    """A validator that refuses misspelt words of `known`; others pass, an engine may know them ('w8a8')."""
    words = tuple(known)

    def check(word: Any) -> Any:
        if not isinstance(word, str) or word in words:
            return word
        meant = _SYNONYMS.get(word.lower()) or nearest(word.lower(), words)
        if meant:
            raise expected(f"{what} such as {', '.join(words)}", word, f"did you mean {meant!r}?")
        return word

    return check


def _option(value: Any) -> Any:
    if isinstance(value, bool | int | float | str):
        return value
    raise expected("a number, text, true or false", value)


Word = Annotated[str, Field(min_length=1)]
Whole = Annotated[int, BeforeValidator(_whole)]
AtLeastOne = Annotated[Whole, Field(ge=1)]
AtLeastZero = Annotated[Whole, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveSeconds = Annotated[float, Field(gt=0.0)]
OptionValues = Annotated[tuple[Annotated[OptionValue, BeforeValidator(_option)], ...], BeforeValidator(one_or_more)]


def listed(items: Any) -> Any:
    """A YAML or JSON list, as the tuple that a frozen model holds."""
    return tuple(items) if isinstance(items, list) else items
