"""One argument of a foreign server's command line: the values that it takes, and the words that state one."""

from __future__ import annotations

from dataclasses import dataclass

from engines.errors import SpecInvalid
from engines.nearest import did_you_mean
from engines.setting import OptionValue

_WORDS = {"flag": "true or false", "switch": "true or false", "int": "a whole number", "float": "a number"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument of a server's command line. `kind`: flag (has a `negative`), switch, int, float, list or text."""

    flag: str
    kind: str
    negative: str = ""
    choices: tuple[str, ...] = ()

    def words(self, engine: str, name: str, value: OptionValue) -> list[str]:
        """The words for `value` on the command line. Raises SpecInvalid with what was expected."""
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if not self._takes(value, text):
            expected = " or ".join(self.choices) if self.choices else _WORDS[self.kind]
            raise SpecInvalid(
                f"{engine}: option {name} is {value!r}, expected {expected}{did_you_mean(text, self.choices)}"
            )
        if self.kind in ("flag", "switch"):
            return [self.flag] if text == "true" else [self.negative] if self.negative else []
        return [self.flag, *text.split()] if self.kind == "list" else [self.flag, text]

    def _takes(self, value: OptionValue, text: str) -> bool:
        if self.kind in ("flag", "switch"):
            return text in ("true", "false")
        if self.choices:
            return text in self.choices
        try:
            return self.kind in ("list", "text") or (not isinstance(value, bool) and _number(self.kind, text))
        except ValueError:
            return False


def _number(kind: str, text: str) -> bool:
    return int(text) is not None if kind == "int" else float(text) is not None
