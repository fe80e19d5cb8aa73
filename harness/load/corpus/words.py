"""A corpus of real text, from which inputs of a wanted length are cut: its words, without long passages twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.errors import ScenarioError
from harness.load.corpus.text_counts import TextCounts
from harness.load.user_rows import read_utf8

WINDOW = 32
"""Tokens: no passage so long stands twice in what is cut. Prefix caches keep blocks of 16 or more, and drafts by
n-grams look for far shorter ones."""
MAX_CHARS = 16 << 20
"""More of a corpus is left out: load processes get its text with their plan."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Of the polynomial hash of a window, modulo 2**64; odd, from the golden ratio."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """`text` is that of the file in `path` with every blank and line end as one blank."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> Corpus:
        """The corpus in a UTF-8 text file, its first 16 Mi characters. Raises ScenarioError."""
        text = " ".join(read_utf8(path, "corpus", "name a text file by workload.corpus")[:MAX_CHARS].split())
        if not text:
            raise ScenarioError(
                f"{path}: expected a corpus of text, the file is empty; name another in workload.corpus"
            )
        return cls(path, text)


class Words:
    """The words of a corpus that stand in no passage of WINDOW tokens which the corpus holds before.

    `begin` and `end` are their characters, `tokens` how many each has; `before` is how many stand before each word, and
    as its last item all there are.
    """

    def __init__(self, corpus: Corpus, counts: TextCounts) -> None:
        words = corpus.text.split(" ")
        ids = counts.of_words(words)
        kept = _kept(ids)
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        sizes = np.array([len(word) for word in words])
        self.end: npt.NDArray[np.int64] = ends[kept]
        self.begin: npt.NDArray[np.int64] = (ends - sizes)[kept]
        self.tokens = np.array([len(ids[number]) for number in kept], dtype=np.int64)
        self.before = np.concatenate([[0], np.cumsum(self.tokens)])
        # A span of characters ends where the next kept word is not the next of the text.
        self._gaps = np.flatnonzero(self.begin[1:] != self.end[:-1] + 1) + 1

    @property
    def total(self) -> int:
        """Tokens of all of them."""
        return int(self.before[-1])

    def __len__(self) -> int:
        return len(self.tokens)

    def spans(self, first: int, end: int) -> list[tuple[int, int]]:
        """Characters of the words from `first` to before `end`, in runs that are whole in the text."""
        low, high = np.searchsorted(self._gaps, [first, end - 1], side="right")
        cuts = [first, *self._gaps[low:high].tolist(), end]
        return [(int(self.begin[a]), int(self.end[b - 1])) for a, b in pairwise(cuts)]


def _kept(ids: Sequence[tuple[int, ...]]) -> npt.NDArray[np.int64]:
    """The numbers of the words that are kept: without the last word of each window that came before, until none did."""
    kept = np.flatnonzero([len(each) > 0 for each in ids])
    while True:
        flat = np.array([one for number in kept.tolist() for one in ids[number]], dtype=np.uint64)
        owner = np.repeat(np.arange(len(kept)), [len(ids[number]) for number in kept.tolist()])
        hashes = window_hashes(flat)
        if not len(hashes):
            return kept
        _, first = np.unique(hashes, return_index=True)
        is_first = np.zeros(len(hashes), dtype=bool)
        is_first[first] = True
        if is_first.all():
            return kept
        kept = np.delete(kept, np.unique(owner[np.flatnonzero(~is_first) + WINDOW - 1]))


def window_hashes(tokens: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A hash of each window of WINDOW tokens; none of fewer tokens."""
    size = len(tokens) - WINDOW + 1
    if size <= 0:
        return np.zeros(0, dtype=np.uint64)
    hashes = np.zeros(size, dtype=np.uint64)
    for place in range(WINDOW):
        hashes = hashes * _MULTIPLIER + tokens[place : place + size] + np.uint64(1)
    return hashes
