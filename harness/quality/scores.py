"""Quality scores of answers against references, all from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Sequence


def is_exact_match(answer: str, reference: str) -> bool:
    """Equal after blanks at both ends are removed."""
    return answer.strip() == reference.strip()


def token_agreement(answer: str, reference: str) -> float:
    """Length of the longest common prefix over the longer length, in words split at blanks; 1.0 for two empty texts.

    A prefix, because greedy decoding that differs once continues from different text.
    """
    ours, theirs = answer.split(), reference.split()
    longest = max(len(ours), len(theirs))
    if longest == 0:
        return 1.0
    agreed = 0
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            break
        agreed += 1
    return agreed / longest


def chrf(answers: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF2 (sacrebleu's default: 6 character orders, beta 2), over 100."""
    from sacrebleu.metrics import CHRF

    return float(CHRF().corpus_score(list(answers), [list(references)]).score) / 100.0


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> tuple[float, ...]:
    """ROUGE-L F1 of each answer (rouge-score, no stemming)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(answers, references, strict=True)
    return tuple(float(scorer.score(reference, answer)["rougeL"].fmeasure) for answer, reference in pairs)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test on discordant pairs: the chance of a split at least this uneven if both were equal.

    Binomial(n, 1/2) with n = only_first + only_second; 1.0 when no pair differs.
    """
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1)) / float(2**n)
    return min(1.0, 2 * tail)
