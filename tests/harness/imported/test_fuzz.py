"""Whatever a result file holds, importing it gives metrics or one sentence: mutations of what the tools wrote."""

from __future__ import annotations

import json
import math
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.imported.files import results_in
from harness.imported.runs import summary_of, write_runs
from tests.harness.imported.test_import import ALL
from tests.harness.mutations import FUZZ, PLACE, check_sentence, placed, torn, values

REQUESTS = 2
"""So many are enough to be changed, and few enough that a change often meets something else."""


@cache
def _seeds() -> list[Any]:
    return [_short(_read(path)) for path in ALL]


def _read(path: Path) -> Any:
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


NOT_READ = {
    "scheduler_state", "scheduler_metrics", "spec", "constraints", "environment", "profile", "warnings", "failures",
    "osl_mismatch_count", "decode_duration", "percentiles", "generated_texts", "worker_id", "data", "report",
}  # fmt: skip


def _short(value: Any) -> Any:
    """The same with lists of a few items, without what no reader looks at: a change there changes nothing."""
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items() if name not in NOT_READ}
    return [_short(each) for each in value[:REQUESTS]] if isinstance(value, list) else value


@st.composite
def _files(draw: st.DrawFn) -> bytes:
    value = draw(values(_seeds(), most=4))
    is_lines = isinstance(value, list) and draw(st.booleans())
    text = "\n".join(json.dumps(each) for each in value) if is_lines else json.dumps(value)
    return text.encode("utf-8", "replace")


@FUZZ
@given(st.one_of(_files(), _files(), torn(_files())))
def test_an_import_gives_finite_metrics_or_one_sentence(data: bytes) -> None:
    path = placed(data)
    shutil.rmtree(PLACE / "runs", ignore_errors=True)
    try:
        results = results_in([path])
        summaries = [summary_of(result) for result in results]
        write_runs(results, PLACE / "runs")
    except UsageError as error:
        check_sentence(str(error), path)
        return
    assert summaries
    numbers = [metric.value for summary in summaries for metric in summary.metrics.values()]
    assert all(math.isfinite(number) for number in numbers)
