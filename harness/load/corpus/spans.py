"""Texts as spans of a corpus: what a plan holds of them, and how a load process joins them."""

from __future__ import annotations

Cut = tuple[tuple[int, int], ...]
"""Spans of characters: begin, and end that is not in it."""

Around = tuple[str, str]
"""What a model's chat template writes before and behind the text of one user message."""


def text_of(corpus: str, cut: Cut) -> str:
    """The text of a cut: its spans with a blank between."""
    return " ".join(corpus[begin:end] for begin, end in cut)
