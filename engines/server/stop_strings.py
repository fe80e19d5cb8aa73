"""Stop strings: where in a growing text the first of them begins, so that the answer ends before it."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Watches one answer's text. `is_found` is set by the piece that completes a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_found = False

    def take(self, piece: str) -> str:
        """The text that this piece lets out: all before a stop string, and nothing that may yet become one."""
        text = self._held + piece
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.is_found = True
            self._held = ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that begin `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
