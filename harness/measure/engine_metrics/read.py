"""The reader of a metrics page: Prometheus text to the numbers that dyno understands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from engines.metrics_page import LARGEST, Meaning, Word, Words

MOST_BYTES = 8 << 20
"""A page is cut there; vLLM's has about 60 KB."""


def read_metrics(page: bytes, words: Words) -> dict[Meaning, float]:
    """The numbers of the page, by meaning; empty where it has none of the words. Never raises: a line that cannot be
    read is left out, as is a number that is not finite."""
    names = {name for found in words.values() for word in found for name in (word.name, word.plus) if name}
    lines = _lines(page[:MOST_BYTES].decode("utf-8", "replace"), names)
    values: dict[Meaning, float] = {}
    for meaning, known in words.items():
        for word in known:
            lines_of_it = (*lines.get(word.name, ()), *(lines.get(word.plus, ()) if word.name in lines else ()))
            found = [
                number * word.scale
                for labels, value in lines_of_it
                if _has(labels, word) and (number := _number(labels, value, word)) is not None
            ]
            if found:
                values[meaning] = max(found) if meaning in LARGEST else sum(found)
                break
            if word.labels and word.name in lines:  # counted, and none of this kind so far
                values[meaning] = 0.0
                break
    return {meaning: value for meaning, value in values.items() if math.isfinite(value)}


Lines = dict[str, list[tuple[Mapping[str, str], float]]]


def _lines(text: str, names: set[str]) -> Lines:
    """The labels and values of the lines that begin with one of `names`; the others are not read at all."""
    found: Lines = {}
    begins = tuple(names)
    for line in text.splitlines():
        if line.startswith(begins):
            for name, labels, value in _samples(line):
                if name in names and math.isfinite(value):
                    found.setdefault(name, []).append((labels, value))
    return found


def _samples(line: str) -> Iterable[tuple[str, Mapping[str, str], float]]:
    """The sample of one line; none of a broken one, whose neighbours count all the same."""
    from prometheus_client.parser import text_string_to_metric_families  # not above: `dyno --help` does without

    try:
        families = list(text_string_to_metric_families(line + "\n"))
    except ValueError:
        return []
    return [(sample.name, sample.labels, float(sample.value)) for family in families for sample in family.samples]


def _number(labels: Mapping[str, str], value: float, word: Word) -> float | None:
    """The line's number; None where a label that should have it holds no number."""
    if not word.label:
        return value
    try:
        return float(labels.get(word.label, ""))
    except ValueError:
        return None


def _has(labels: Mapping[str, str], word: Word) -> bool:
    return all(labels.get(name) == value for name, value in word.labels.items())
