"""The page: self-contained, small enough, every number in tables that need no script."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.report.html import page
from harness.report.plots import figures
from harness.report.tables import recommendation_of, report_table
from harness.store.reader import Run, read_run
from tests.harness.recommend.runs import candidate, failed, measured_trial, records, store, trial

MAX_BYTES = 6_000_000
VOID = {"meta", "br", "link", "img"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = []
    for number, (engine, dtype, median) in enumerate(
        [("transformers", "fp32", 61.0), ("ctranslate2", "int8", 20.0), ("onnxruntime", "fp32", 30.0)], start=1
    ):
        sent = records(median, seed=number)
        made.append((measured_trial(number, candidate(engine, dtype=dtype), sent), sent))
    bad = failed(4, candidate("ctranslate2", dtype="bf16"), "infeasible", "no <bf16> & such on this CPU")
    return read_run(store(tmp_path_factory.mktemp("results"), [*made, bad], description="a <script>alert(1)</script>"))


@pytest.fixture(scope="module")
def text(run: Run) -> str:
    return page(run, report_table(run))


class _Balance(HTMLParser):
    """Fails when a tag is closed that was not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_below_six_megabytes(text: str) -> None:
    balance = _Balance()
    balance.feed(text)
    assert balance.open == []
    assert len(text.encode()) < MAX_BYTES


def test_the_page_asks_the_network_for_nothing(text: str) -> None:
    markup = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.search(r"""(src|href)\s*=|url\(|@import""", markup)


def test_every_trial_its_numbers_and_reasons_are_there_without_script(run: Run, text: str) -> None:
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    for trial_ in run.trials:
        assert trial_.trial_id in markup
    assert "no &lt;bf16&gt; &amp; such on this CPU" in markup
    assert "Why the others lost" in markup
    assert "A CPU" in markup
    assert "alert(1)</script>" not in text
    assert "<noscript>" in markup


def test_the_figures_hold_what_was_measured(run: Run) -> None:
    drawn = figures(run, recommendation_of(run))
    assert list(drawn) == ["tradeoff", "progress", "cdf", "phases"]
    json.dumps(drawn, allow_nan=False)
    lines = drawn["cdf"]["data"]
    assert [line["name"].split()[0] for line in lines] == ["ctranslate2", "onnxruntime", "transformers"]
    middle = lines[0]["x"][len(lines[0]["x"]) // 2]
    assert middle == pytest.approx(20.0, rel=0.05)
    ticks = drawn["cdf"]["layout"]["xaxis"]["tickvals"]
    assert ticks == sorted(ticks)
    assert 4 <= len(ticks) <= 14
    ring = drawn["tradeoff"]["data"][-1]
    assert ring["name"] == "recommended"
    best = next(line for line in drawn["progress"]["data"] if line["name"] == "best so far")
    assert best["y"] == sorted(best["y"], reverse=True)
    assert [bar["name"] for bar in drawn["phases"]["data"]] == ["launch", "quality", "load"]


def test_a_run_of_failures_has_a_page_without_figures(tmp_path: Path) -> None:
    run = read_run(store(tmp_path, [failed(1, candidate())]))
    text = page(run, report_table(run))
    assert "No recommendation" in text
    assert "it would not start" in text
    assert "plot-" not in text


def test_raw_records_that_are_gone_leave_the_other_figures(tmp_path: Path) -> None:
    run = read_run(store(tmp_path, [trial(1, candidate(), (20.0, 19.0, 21.0))]))
    assert "cdf" not in figures(run, recommendation_of(run))
