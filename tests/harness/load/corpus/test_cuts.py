"""Texts cut from a corpus have the length asked for, hold no passage twice and begin differently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.errors import ScenarioError
from harness.load.corpus.cuts import Cutter, cutter_of
from harness.load.corpus.spans import text_of
from harness.load.corpus.text_counts import TextCounts
from harness.load.corpus.words import WINDOW, Corpus, Words, window_hashes
from harness.scenario.resolve import BUNDLED_CORPUS, BUNDLED_DECODER, BUNDLED_MODEL

AROUND = ("<s>[INST] ", " [/INST]")
MODELS = pytest.mark.parametrize(
    ("folder", "around"),
    [(BUNDLED_MODEL, None), (BUNDLED_DECODER, None), (BUNDLED_DECODER, AROUND), (None, None)],
    ids=["seq2seq", "decoder", "in a chat template", "by words"],
)


def _corpus(folder: Path, text: str) -> Corpus:
    (folder / "corpus.txt").write_text(text, encoding="utf-8")
    return Corpus.read(folder / "corpus.txt")


@MODELS
def test_a_cut_has_its_length_within_one_token_or_one_percent(folder: Path | None, around: tuple[str, str]) -> None:
    text, cutter = cutter_of(BUNDLED_CORPUS, folder, around, may_repeat=False)
    shortest = cutter.added + 2
    lengths = [*range(shortest, shortest + 60), 100, 333, 512, 1_000, 4_096, 30_000] * 2
    counted = TextCounts(folder, around).of_texts([text_of(text, cut) for cut in cutter.cuts(lengths)])
    missed = [(came, length) for came, length in zip(counted, lengths, strict=True) if came != length]
    assert all(abs(came - length) <= max(1, 0.01 * length) for came, length in missed), missed


@MODELS
def test_no_window_stands_twice_in_a_cut_nor_opens_two(folder: Path | None, around: tuple[str, str]) -> None:
    text, cutter = cutter_of(BUNDLED_CORPUS, folder, None, may_repeat=False)
    counts = TextCounts(folder)
    openings: set[int] = set()
    cuts = cutter.cuts([40_000, 20_000, *[300] * 300])
    for cut in cuts:
        words = text_of(text, cut).split(" ")
        tokens = np.array([one for ids in counts.of_words(words) for one in ids], dtype=np.uint64)
        hashes = window_hashes(tokens)
        assert len(np.unique(hashes)) == len(hashes)
        openings.add(int(hashes[0]))
    assert len(openings) == len(cuts)


def test_passages_that_stand_twice_in_a_corpus_are_cut_out_of_it(tmp_path: Path) -> None:
    passage = [f"w{number}" for number in range(100)]
    corpus = _corpus(tmp_path, " ".join([*passage, "between", *passage, "last"]))
    words = Words(corpus, TextCounts(None))
    assert words.total == 100 + 1 + WINDOW - 1 + 1
    assert text_of(corpus.text, tuple(words.spans(0, len(words)))).split() == [
        *passage, "between", *passage[: WINDOW - 1], "last",
    ]  # fmt: skip
    assert Words(_corpus(tmp_path, "the same again and again " * 300), TextCounts(None)).total <= WINDOW + 4


def test_a_corpus_that_is_too_short_is_refused_with_the_numbers(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path, " ".join(f"w{number}" for number in range(50)))
    cutter = Cutter(corpus, TextCounts(None))
    with pytest.raises(
        ScenarioError, match=r"enough for an input of 51 tokens, got 50 words.* corpus\.txt .*corpus_may"
    ):
        cutter.cuts([10, 51])
    with pytest.raises(ScenarioError, match="enough for 51 texts that each begin at another word"):
        cutter.cuts([5] * 51)
    allowed = Cutter(corpus, TextCounts(None), may_repeat=True)
    (cut,) = allowed.cuts([120])
    assert len(text_of(corpus.text, cut).split()) == 120
    with pytest.raises(ScenarioError, match="the file is empty"):
        _corpus(tmp_path, " \n")


@MODELS
def test_shared_tokens_stand_before_every_text_and_nothing_else_does(
    folder: Path | None, around: tuple[str, str]
) -> None:
    text, cutter = cutter_of(BUNDLED_CORPUS, folder, around, may_repeat=False, shared=400)
    texts = [text_of(text, cut) for cut in cutter.cuts([500] * 200)]
    counted = TextCounts(folder, around).of_texts(texts)
    assert all(abs(came - 500) <= 5 for came in counted), counted
    ids = [_tokens(folder, one) for one in texts]
    added = cutter.added
    assert {_common(ids[0], other) for other in ids[1:]} <= set(range(400 - added, 400 - added + WINDOW))
    for each in ids[:50]:
        hashes = window_hashes(np.array(each, dtype=np.uint64))
        assert len(np.unique(hashes)) == len(hashes)


def test_a_seed_moves_the_beginnings_and_equal_seeds_give_equal_texts() -> None:
    text, cutter = cutter_of(BUNDLED_CORPUS, None, None, may_repeat=False)
    first, again, other = (cutter.cuts([50] * 20, seed) for seed in (0, 0, 1_000))
    assert first == again
    assert not {text_of(text, cut) for cut in first} & {text_of(text, cut) for cut in other}


@MODELS
def test_equal_blocks_are_equal_tokens_and_different_ones_differ(folder: Path | None, around: tuple[str, str]) -> None:
    text, cutter = cutter_of(BUNDLED_CORPUS, folder, around, may_repeat=False)
    size = 64
    rows = [((1, 2, 3), 3 * size), ((1, 2, 4, 5), 4 * size - 10), ((1, 2, 3), 3 * size), ((6, 2), 2 * size), ((7,), 40)]
    texts = [text_of(text, cut) for cut in cutter.blocks(rows, size)]
    counted = TextCounts(folder, around).of_texts(texts)
    assert all(abs(came - length) <= 1 for came, (_, length) in zip(counted, rows, strict=True)), counted
    assert texts[0] == texts[2]
    ids = [_tokens(folder, one) for one in texts]
    assert _common(ids[0], ids[1]) in range(2 * size, 2 * size + 8)
    assert _common(ids[0], ids[3]) < 8
    assert ids[3][size : size + 40] == ids[0][size : size + 40], "block 2 has the same tokens behind another block"


def _tokens(folder: Path | None, text: str) -> list[int]:
    """Word by word; whether a tokenizer agrees is what the counts above show."""
    return [one for ids in TextCounts(folder).of_words(text.split(" ")) for one in ids]


def _common(first: list[int], second: list[int]) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def test_more_blocks_than_words_still_differ(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path, " ".join(f"w{number}" for number in range(60)))
    cutter = Cutter(corpus, TextCounts(None))
    texts = [text_of(corpus.text, cut) for cut in cutter.blocks([((n,), 20) for n in range(170)], 20)]
    assert len(set(texts)) == 170
    assert {len(one.split()) for one in texts} == {20}
    with pytest.raises(ScenarioError, match="enough for a block of 61 tokens"):
        cutter.blocks([((1,), 61)], 61)
