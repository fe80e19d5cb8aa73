"""Scores on texts whose value is known."""

from __future__ import annotations

import pytest

from harness.quality.scores import chrf, is_exact_match, mcnemar_p, rouge_l, token_agreement


def test_exact_match_ignores_only_blanks_at_the_ends() -> None:
    assert is_exact_match(" 1987-04-12\n", "1987-04-12")
    assert not is_exact_match("one  two", "one two")
    assert not is_exact_match("Positive", "positive")


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("a b c d", "a b c d", 1.0),
        ("a b x d", "a b c d", 0.5),
        ("x b c d", "a b c d", 0.0),
        ("a b", "a b c d", 0.5),
        ("a b c d", "a b", 0.5),
        ("", "", 1.0),
        ("", "a", 0.0),
    ],
)
def test_token_agreement_is_the_common_prefix_over_the_longer(answer: str, reference: str, value: float) -> None:
    assert token_agreement(answer, reference) == value


def test_chrf_and_rouge_are_one_for_equal_texts_and_near_zero_for_strangers() -> None:
    same = ["she will weigh the yellow printer", "the report is late"]
    assert chrf(same, same) == pytest.approx(1.0)
    assert rouge_l(same, same) == (1.0, 1.0)
    assert chrf(["zzzz qqqq"], ["the report is late"]) < 0.05
    assert rouge_l(["zzzz qqqq"], ["the report is late"]) == (0.0,)


def test_rouge_l_of_a_known_subsequence() -> None:
    # Longest common subsequence "police the gunman": 3 of 4 words on both sides (Lin 2004, section 3.1).
    (value,) = rouge_l(["police kill the gunman"], ["police the killed gunman"])
    assert value == pytest.approx(0.75)


def test_mcnemar_is_the_exact_binomial() -> None:
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(1, 1) == 1.0
    assert mcnemar_p(6, 0) == pytest.approx(2 / 64)
    assert mcnemar_p(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024)
