"""The known name nearest to a misspelt one, for the end of an error message."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

CUTOFF = 0.6
"""Similarity from which a name counts as meant, from 0 to 1; difflib's own default."""


def nearest(word: str, known: Iterable[str], cutoff: float = CUTOFF) -> str:
    """The most similar of `known`; '' when none is similar enough."""
    return next(iter(get_close_matches(word, list(known), n=1, cutoff=cutoff)), "")


def did_you_mean(word: str, known: Iterable[str], cutoff: float = CUTOFF) -> str:
    """ "; did you mean 'x'?" or ''."""
    near = nearest(word, known, cutoff)
    return f"; did you mean {near!r}?" if near else ""
