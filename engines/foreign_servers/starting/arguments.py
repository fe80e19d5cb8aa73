"""One argument of a foreign server's command line: the values that it takes, and the words that state one."""

from __future__ import annotations

from dataclasses import dataclass

from engines.errors import SpecInvalid
from engines.nearest import did_you_mean
from engines.option_values import OptionValues
from engines.setting import OptionValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument(OptionValues):
    """One argument of a server's command line; one of kind flag has a `negative`."""

    flag: str
    negative: str = ""

    def words(self, engine: str, name: str, value: OptionValue) -> list[str]:
        """The words for `value` on the command line. Raises SpecInvalid with what was expected."""
        text = self.text(value)
        if not self.takes(value):
            hint = did_you_mean(text, self.choices)
            raise SpecInvalid(f"{engine}: option {name} is {value!r}, expected {self.expected}{hint}")
        if self.kind in ("flag", "switch"):
            return [self.flag] if text == "true" else [self.negative] if self.negative else []
        return [self.flag, *text.split()] if self.kind == "list" else [self.flag, text]
