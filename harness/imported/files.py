"""The results in files of other tools, each read by the reader of the tool that wrote it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.imported import aiperf, guidellm, inference_perf, llama_bench, vllm_bench
from harness.imported.nodes import NEXT, Node, documents
from harness.imported.result import Result
from harness.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class Reader:
    """One tool: whether a document is its own, and the results in a file of such documents."""

    tool: str
    recognizes: Callable[[Node], bool]
    results: Callable[[Sequence[Node], Path], list[Result]]


READERS = tuple(
    Reader(each.TOOL, each.recognizes, each.results)
    for each in (aiperf, guidellm, vllm_bench, inference_perf, llama_bench)
)


LONGEST_NS = 366 * 86_400 * NS_PER_S
"""A year from the first request to the last answer."""


def results_in(paths: Sequence[Path]) -> list[Result]:
    """The results of all files, each once however many of its files are named. Raises UsageError."""
    found: dict[tuple[Path, ...], list[Result]] = {}
    for path in paths:
        roots = documents(path)
        reader = next((each for each in READERS if each.recognizes(roots[0])), None)
        if reader is None:
            known = ", ".join(each.tool for each in READERS)
            raise UsageError(
                f"{path}: expected a result of {known}, got another document; name the file that has its numbers"
            )
        made = reader.results(roots, path)
        if not made:
            raise UsageError(f"{path}: expected a result of {reader.tool}, got one without any load in it; {NEXT}")
        for result in made:
            _check_times(result, path)
        found.setdefault(tuple(file.resolve() for file in made[0].files), made)
    return [result for made in found.values() for result in made]


def _check_times(result: Result, path: Path) -> None:
    """Raise UsageError for a request that ends before it was sent, and for times that no table of ours can hold."""
    for record in result.requests:
        if record.done_ns < record.sent_ns or (record.first_token_ns or record.sent_ns) < record.sent_ns:
            raise UsageError(f"{path}: expected answers after their requests, got one before it was asked for; {NEXT}")
        if max(record.done_ns, *record.token_ns, 0) > LONGEST_NS:
            raise UsageError(f"{path}: expected requests of one load, got some that are years apart; {NEXT}")
