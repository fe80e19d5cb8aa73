"""The values that an option of an engine takes, as far as they are known before a launch: type, words, range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from engines.nearest import did_you_mean
from engines.setting import OptionValue

_TYPES = {"flag": "true or false", "switch": "true or false", "int": "a whole number", "float": "a number"}
_LIST, _TEXT = "list", "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionValues:
    """What one option takes. `kind`: flag or switch (true, false), int, float, list (words in one text) or text.

    `choices` are the only words that will do (none: any). A number is at least `low` and at most `high` where they are
    given; `is_low_out`, `is_high_out`: the bound itself is refused.
    """

    kind: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    is_low_out: bool = False
    is_high_out: bool = False

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The record that `asdict` and JSON made a mapping of."""
        return cls(**{**row, "choices": tuple(row["choices"])})

    @property
    def expected(self) -> str:
        """'a whole number >= 1', 'one of auto, fp8'."""
        if self.choices:
            return f"one of {', '.join(self.choices)}" if len(self.choices) > 1 else self.choices[0]
        bounds = [
            f"{sign}{'' if is_out else '='} {bound:g}"
            for sign, bound, is_out in ((">", self.low, self.is_low_out), ("<", self.high, self.is_high_out))
            if bound is not None
        ]
        return " ".join([_TYPES.get(self.kind, "text"), " and ".join(bounds)]).strip()

    def takes(self, value: OptionValue) -> bool:
        """Whether it accepts `value`; a number and true or false may be written as text, as in a properties file."""
        text = self.text(value)
        if self.kind in ("flag", "switch"):
            return text in ("true", "false")
        if self.choices:
            return text in self.choices
        if self.kind in (_LIST, _TEXT):
            return True
        try:
            return not isinstance(value, bool) and self._is_inside(int(text) if self.kind == "int" else float(text))
        except ValueError:
            return False

    def why_not(self, value: OptionValue) -> str:
        """'expected a whole number >= 1', with the nearest word where there is one; '' when it accepts `value`."""
        return "" if self.takes(value) else f"expected {self.expected}{did_you_mean(self.text(value), self.choices)}"

    def text(self, value: OptionValue) -> str:
        """The value as its server reads it."""
        if isinstance(value, bool) and "on" in self.choices:
            return "on" if value else "off"  # other readers of YAML take these words for true and false
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _is_inside(self, number: float) -> bool:
        low, high = self.low, self.high
        is_above = low is None or number > low or (number == low and not self.is_low_out)
        return is_above and (high is None or number < high or (number == high and not self.is_high_out))


AT_LEAST_ONE = OptionValues(kind="int", low=1)
FLAG = OptionValues(kind="flag")


def one_of(*words: str) -> OptionValues:
    """The values of an option that takes one of these words."""
    return OptionValues(kind="text", choices=words)
