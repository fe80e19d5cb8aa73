"""Texts of a wanted number of tokens, cut from a corpus: one for each request, or made of blocks that requests share.

Load processes join the spans of a cut without a tokenizer (spans.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import gcd
from pathlib import Path

import numpy as np

from harness.errors import ScenarioError
from harness.load.corpus.spans import Around, Cut, text_of
from harness.load.corpus.text_counts import TextCounts
from harness.load.corpus.words import Corpus, Words

Range = tuple[int, int]
"""Words from the first to before the second."""

Opening = tuple[int, int]
"""The word that a block begins with, and the round of the corpus in which it was taken."""

LOOK_AHEAD = 400
"""Words among which one is looked for that fills what is missing at the end of a cut: most words have one token."""
TRIES = 4
"""Corrections of a text by what the whole of it counts; the first is right where words are tokenized one by one."""
EXACT_FRAC = 0.01
EXACT_TOKENS = 1
"""A text may miss its length by one token, or 1 %."""
PROVEN = 256
"""So many texts are always counted whole. If each had its length at once, of more than MANY_TOKENS the rest is not."""
MANY_TOKENS = 2_000_000
_WHERE = "workload.corpus: "
_GOLDEN = 0.6180339887
"""Openings follow each other in steps of this share of the corpus, which spreads any number of them evenly."""


class Cutter:
    """Cuts texts from a corpus as `counts` counts them. `may_repeat`: a text longer than the corpus begins it anew, and
    two may have one beginning; else both are refused. `shared` tokens stand before every text, the same of all."""

    def __init__(self, corpus: Corpus, counts: TextCounts, *, may_repeat: bool = False, shared: int = 0) -> None:
        self._corpus = corpus
        self._counts = counts
        self._may_repeat = may_repeat
        self._words = Words(corpus, counts)
        self._first = 0
        sample = self._spans([(0, min(8, len(self._words)))])
        counted = counts.of_texts([text_of(corpus.text, sample)])[0]
        self.added = max(0, counted - int(self._words.before[min(8, len(self._words))]))
        if shared > self.total:
            raise ScenarioError(_WHERE + self._too_short(f"{shared:,} tokens that all inputs share"))
        self._shared = self._ranges(0, shared - self.added) if shared > self.added else []
        self._first = self._shared[-1][1] if self._shared else 0
        self._step = _step(len(self._words) - self._first)

    @property
    def total(self) -> int:
        """Tokens of the corpus without what stands in it twice, and without what all texts share."""
        return self._words.total - int(self._words.before[self._first])

    @property
    def openings(self) -> int:
        """Words that a text may begin with: of more texts some begin alike."""
        return len(self._words) - self._first

    @property
    def _shared_tokens(self) -> int:
        return sum(int(self._words.before[end] - self._words.before[first]) for first, end in self._shared)

    def cuts(self, lengths: Sequence[int], seed: int = 0, openings: Sequence[int] = ()) -> tuple[Cut, ...]:
        """One cut for each number of tokens, all with different beginnings, which `seed` moves; `openings` numbers the
        beginnings where some are the same. Raises ScenarioError with the numbers: the corpus is too short."""
        numbers = openings or range(len(lengths))
        self.check(max(lengths, default=0), len(set(numbers)))
        starts = [self._first + (number + seed) * self._step % self.openings for number in numbers]
        cuts = [self._cut(start, length - self.added) for start, length in zip(starts, lengths, strict=True)]
        is_proven = True
        for begin in range(0, len(cuts), PROVEN):
            if begin and is_proven and sum(lengths) > MANY_TOKENS:
                break
            part = slice(begin, begin + PROVEN)
            corrected = self._corrected(starts[part], lengths[part], cuts[part])
            is_proven = is_proven and corrected == cuts[part]
            cuts[part] = corrected
        return tuple(cuts)

    def blocks(self, rows: Sequence[tuple[Sequence[int], int]], block_tokens: int, seed: int = 0) -> tuple[Cut, ...]:
        """One cut for each (ids of its blocks, number of tokens): equal ids are equal texts of `block_tokens` tokens,
        different ones differ from their first words on; the last one is cut to what is left. Blocks that come first
        together follow each other in the corpus. Raises ScenarioError: a block is longer than the corpus."""
        if block_tokens > self.total:
            raise ScenarioError(_WHERE + self._too_short(f"a block of {block_tokens} tokens"))
        opening, used = dict[int, Opening](), set[int]()
        at, round_ = seed * self._step % self.openings, 0
        for block in dict.fromkeys(block for ids, _ in rows for block in ids):
            if len(used) == len(self._words):
                used, round_ = set(), round_ + 1
            while at in used:
                at = (at + 1) % len(self._words)
            used.add(at)
            opening[block] = at, round_
            at = self._behind(at, block_tokens)
        return tuple(self._of_blocks(opening, ids, length, block_tokens) for ids, length in rows)

    def _of_blocks(self, opening: Mapping[int, Opening], ids: Sequence[int], length: int, block_tokens: int) -> Cut:
        left, ranges = max(1, length - self.added), list[Range]()
        for block in ids:
            if left <= 0:
                break
            ranges += self._block(opening[block], min(left, block_tokens))
            left -= block_tokens
        return self._spans(ranges)

    def _block(self, opening: Opening, tokens: int) -> list[Range]:
        """The words of a block. In further rounds, once every word has opened one, the rest comes from elsewhere."""
        start, round_ = opening
        if round_ == 0 or int(self._words.tokens[start]) >= tokens:
            return self._ranges(start, tokens)
        behind = (start + 1 + round_ * self._step) % len(self._words)
        return [(start, start + 1), *self._ranges(behind, tokens - int(self._words.tokens[start]))]

    def _corrected(self, starts: Sequence[int], lengths: Sequence[int], cuts: Sequence[Cut]) -> list[Cut]:
        """The cuts, where their whole text has not the length that the sum of its words promised, tried again."""
        found, wanted = list(cuts), [length - self.added for length in lengths]
        for _ in range(TRIES):
            counted = self._counts.of_texts([text_of(self._corpus.text, cut) for cut in found])
            missed = [
                number
                for number, (came, length) in enumerate(zip(counted, lengths, strict=True))
                if abs(came - length) > max(EXACT_TOKENS, EXACT_FRAC * length) and wanted[number] + length > came
            ]
            if not missed:
                break
            for number in missed:
                wanted[number] += lengths[number] - counted[number]
                found[number] = self._cut(starts[number], wanted[number])
        return found

    def _cut(self, start: int, tokens: int) -> Cut:
        return self._spans([*self._shared, *self._ranges(start, max(1, tokens - self._shared_tokens))])

    def _ranges(self, start: int, tokens: int) -> list[Range]:
        """Words from `start` on that have so many tokens together; where the next one has more than are missing, some
        that follow it. At least one word."""
        before, ranges, left, at = self._words.before, list[Range](), tokens, start
        while True:
            end = int(np.searchsorted(before, before[at] + left, side="right")) - 1
            if end > at:
                ranges.append((at, end))
                left -= int(before[end] - before[at])
            if end < len(self._words):
                break
            at = end = self._first
            if left <= 0:
                break
        for word in range(end, min(end + LOOK_AHEAD, len(self._words))):
            if left <= 0:
                break
            if (size := int(self._words.tokens[word])) <= left:
                ranges.append((word, word + 1))
                left -= size
        return ranges or [(start, start + 1)]

    def _behind(self, start: int, tokens: int) -> int:
        """The word behind a cut of so many tokens."""
        return self._ranges(start, tokens)[-1][1] % len(self._words)

    def _spans(self, ranges: Sequence[Range]) -> Cut:
        """Their characters; words that follow each other in the text are one span."""
        spans: list[tuple[int, int]] = []
        for first, end in ranges:
            for span in self._words.spans(first, end):
                if spans and spans[-1][1] + 1 == span[0]:
                    span = (spans.pop()[0], span[1])
                spans.append(span)
        return tuple(spans)

    def check(self, longest: int, count: int, where: str = _WHERE) -> None:
        """Raises ScenarioError, beginning with `where`, if it cannot give `count` texts of up to `longest` tokens."""
        if self._may_repeat:
            return
        if longest - self.added - self._shared_tokens > self.total:
            raise ScenarioError(where + self._too_short(f"an input of {longest:,} tokens"))
        self._check_openings(count, "texts", where)

    def _check_openings(self, count: int, what: str, where: str = _WHERE) -> None:
        if count > self.openings:
            raise ScenarioError(where + self._too_short(f"{count:,} {what} that each begin at another word"))

    def _too_short(self, wanted: str) -> str:
        counted = "words, each counted as a token" if self._counts.is_by_words else "tokens by the model's tokenizer"
        allowed = "" if self._may_repeat else ", or allow repetition by corpus_may_repeat: true"
        return (
            f"expected text enough for {wanted}, got {self.total:,} {counted} in {self.openings:,} "
            f"words of {self._corpus.path.name} that stand in it once; name a longer text{allowed}"
        )


@lru_cache(maxsize=2)
def cutter_of(
    path: Path, folder: Path | None, around: Around | None, may_repeat: bool, shared: int = 0
) -> tuple[str, Cutter]:
    """The text of the corpus in `path`, and what cuts it for the model in `folder`; read and counted once. Raises
    ScenarioError for a file that cannot be read, ModelInvalid for a damaged tokenizer."""
    corpus = Corpus.read(path)
    return corpus.text, Cutter(corpus, TextCounts(folder, around), may_repeat=may_repeat, shared=shared)


def _step(size: int) -> int:
    """A step that visits every one of `size` places before it comes back, and spreads the first ones evenly."""
    step = max(1, round(size * _GOLDEN))
    while gcd(step, size) != 1:
        step += 1
    return step
