"""Whatever a metrics page holds, reading it gives finite numbers of known meanings, and never an exception.

`DYNO_FUZZ_EXAMPLES` sets the number of examples of each test (200 by default).
"""

from __future__ import annotations

import math
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from engines.metrics_page import ANY, OURS, VLLM
from harness.measure.engine_metrics.read import read_metrics
from harness.measure.engine_metrics.scrapes import MEANINGS
from tests.harness.mutations import FUZZ

RECORDED = tuple(path.read_bytes() for path in sorted((Path(__file__).parent / "recorded").glob("*.txt")))
NAMES = tuple(word.name for words in ANY.values() for word in words)
ODD_PARTS = (
    b"{", b"}", b'"', b"\\", b"\\n", b"\n", b"\r", b"\x00", b"\xff", b" ", b",", b"=", b"#", b"{}", b"{a=}", b'{a="',
    b"NaN", b"+Inf", b"-Inf", b"1e999", b"0x1p3", b"1_0", b"1 2 3", b"# TYPE", b'# {trace_id="a"} 1 2', b"\xe2\x80\xa8",
    b'{code="200"', b"9" * 5000,
)  # fmt: skip


def _check(page: bytes) -> None:
    for words in (ANY, VLLM, OURS):
        values = read_metrics(page, words)
        assert set(values) <= set(MEANINGS)
        assert all(math.isfinite(value) for value in values.values()), values


@FUZZ
@given(st.binary(max_size=300))
@example(b"dyno_running NaN\n")
@example(b"dyno_running 1e308\ndyno_running 1e308\n")
@example(b'vllm:num_requests_running{a="b"\n')
@example(b"dyno_running{\n")
@example(b"dyno_running{a\n")
@example(b"dyno_running 1 2 3 4\n")
@example(b"dyno_running")
def test_any_bytes_are_read(page: bytes) -> None:
    _check(page)


@FUZZ
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.lists(st.sampled_from(ODD_PARTS), max_size=5)), max_size=5))
def test_lines_that_begin_with_a_known_name_are_read(lines: list[tuple[str, list[bytes]]]) -> None:
    _check(b"\n".join(name.encode() + b"".join(parts) for name, parts in lines))


@FUZZ
@given(st.sampled_from(RECORDED), st.integers(0, 1 << 20), st.integers(0, 40), st.sampled_from(ODD_PARTS))
def test_a_damaged_page_is_read(page: bytes, at: int, cut: int, odd: bytes) -> None:
    at %= len(page)
    _check(page[:at] + odd + page[at + cut :])


@FUZZ
@given(st.sampled_from(RECORDED), st.integers(0, 1 << 20), st.sampled_from(NAMES), st.sampled_from(ODD_PARTS))
def test_a_broken_line_costs_no_other_line_its_number(page: bytes, number: int, name: str, odd: bytes) -> None:
    lines = page.splitlines()
    odd = odd.replace(b"\n", b"").replace(b"\r", b"")
    lines[number % len(lines) : 0] = [b"other" + odd, name.encode() + b'{odd="1"} NaN', name.encode() + b"{" + odd]
    assert read_metrics(b"\n".join(lines), ANY) == read_metrics(page, ANY)
