"""Loads without the server's words, for `keep_texts: false`: of a failed request its status stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harness.load.driver import LoadResult, clear
from harness.records import RequestRecord


@contextmanager
def texts_of(folder: Path, are_kept: bool) -> Iterator[None]:
    """The folder of a load while it is driven; what a load that fails leaves there is removed unless it is kept."""
    try:
        yield
    except BaseException:
        if not are_kept:
            clear(folder)
        raise


def without_words(result: LoadResult) -> LoadResult:
    """The load, each failure without what the server wrote: a refusal may repeat the prompt."""
    return replace(result, records=tuple(_without_words(record) for record in result.records))


def _without_words(record: RequestRecord) -> RequestRecord:
    if not record.error:
        return record
    status = f"HTTP {record.status_code}" if record.status_code else record.outcome
    return replace(record, error=f"{status}, its words not kept (keep_texts: false)")
