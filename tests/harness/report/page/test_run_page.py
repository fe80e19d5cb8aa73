"""The page: self-contained, small enough, safe whatever a run contains, every number in tables that need no script."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from harness.report.content.comparison import compare
from harness.report.content.result_table import report_table
from harness.report.content.run_summary import story_of
from harness.report.figures import all as drawn
from harness.report.figures.all import figures
from harness.report.page import run_page as html
from harness.report.page.comparison_page import comparison_page
from harness.report.page.run_page import page, write_html
from harness.report.page.templates import render
from harness.report.page.trial_sections import SECTIONS, log_tail, trial_sections
from harness.report.wording.numbers import interval_cell
from harness.store.reader import Run, read_requests, read_run
from tests.harness.choose.runs import (
    candidate,
    ended,
    failed,
    measured_trial,
    metric,
    records,
    run_of,
    store,
    trial,
)

MAX_BYTES = 7_000_000
"""Most of it is plotly's script."""
VOID = {"meta", "br", "link", "img", "input"}
NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = []
    for number, (engine, dtype, median) in enumerate(
        [("transformers", "fp32", 61.0), ("ctranslate2", "int8", 20.0), ("onnxruntime", "fp32", 30.0)], start=1
    ):
        sent = records(median, seed=number)
        made.append((measured_trial(number, candidate(engine, dtype=dtype), sent), sent))
    bad = failed(4, candidate("ctranslate2", dtype="bf16"), "infeasible", "no <bf16> & such on this CPU")
    root = store(tmp_path_factory.mktemp("results"), [*made, bad], description="a <script>alert(1)</script>")
    log = root / "logs" / bad.trial_id / "server.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "\n".join(["first line", *(f"line {n}" for n in range(200)), f"\x1b[31m{NASTY}\x1b[0m \x00 \u202eend"])
    )
    return read_run(root)


@pytest.fixture(scope="module")
def text(run: Run) -> str:
    return page(run, report_table(run))


def _markup(text: str) -> str:
    return re.sub(r"<(script|style)[^>]*>.*?</\1>", "", text, flags=re.S)


class _Balance(HTMLParser):
    """Fails when a tag is closed that was not open; keeps ids and targets of links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"a handler in the markup: {name}"
            if name == "id" and value:
                self.ids.append(value)
            if name == "href" and value:
                self.links.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def parsed(text: str) -> _Balance:
    balance = _Balance()
    balance.feed(text)
    return balance


def test_the_page_is_well_formed_and_small(text: str, parsed: _Balance) -> None:
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert len(text.encode()) < MAX_BYTES


def test_the_page_asks_the_network_for_nothing_and_may_not(text: str) -> None:
    markup = _markup(text)
    assert not re.search(r"<[^>]*(src\s*=|url\(|@import|href=\"(?:https?:)?//)", markup)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe-eval" not in policy[1]
    assert "script-src 'sha256-" in policy[1]
    assert "'unsafe-inline'" not in policy[1].partition("style-src")[0]


def test_a_race_s_bound_is_not_called_a_95_percent_interval() -> None:
    best = trial(1, candidate(), (20.0, 19.8, 20.6))
    lost = ended(2, candidate(batch_size=4), best, 0.3)
    of_best, of_lost = (trial_sections(run_of(best, lost), [each], Path()).inner for each in (best, lost))
    assert ">95 % interval<" in of_best
    assert ">95 % interval, of the race a bound (99.9 %)<" in of_lost
    assert ">at least 26.0 (race)<" in of_lost
    fewer = replace(metric(9.0, high=9.5, unit="requests/s", n=100), method="race")
    assert interval_cell(fewer) == "at most 9.50 (race)"
    drawn_ends = [drawn._ends(each.summary.metrics["latency_p50_ms"]) for each in (best, lost) if each.summary]
    assert drawn_ends == [[20.0, 19.8, 20.6], [28.6, None, None]]


def test_plotly_s_script_is_inlined_once(text: str) -> None:
    assert text.count("* plotly.js v") == 1


def test_whatever_a_run_contains_stays_text(text: str, parsed: _Balance) -> None:
    markup = _markup(text)
    assert "img" not in parsed.tags
    assert "&lt;img src=x onerror=alert(1)&gt;" in markup
    assert "alert(1)</script>" not in text
    for character in ("\x1b", "\x00", "\u202e"):
        assert character not in text
    assert "no &lt;bf16&gt; &amp; such on this CPU" in markup


def test_no_template_and_no_other_file_switches_escaping_off() -> None:
    room = Path(html.__file__).parents[1]
    templates = sorted((room / "templates").glob("*.html"))
    assert templates
    for path in templates:
        assert not re.search(r"\|\s*safe\b|autoescape", path.read_text(encoding="utf-8")), path
    made = {path.name for path in room.rglob("*.py") if re.search(r"Markup\([^\"]", path.read_text(encoding="utf-8"))}
    assert made == {"templates.py"}


def test_a_value_that_was_not_passed_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="notes"):
        render("doubts.html")


def test_every_trial_its_numbers_and_reasons_are_there_without_script(run: Run, text: str, parsed: _Balance) -> None:
    markup = _markup(text)
    for one in run.trials:
        assert one.trial_id in markup
        assert f"trial-{one.trial_id}" in parsed.ids
    for words in ("Why the others lost", "A CPU", "<noscript>", "Type 7".lower(), "As recorded (JSON)"):
        assert words in markup


def test_every_link_leads_somewhere(run: Run, parsed: _Balance) -> None:
    inside = [one[1:] for one in parsed.links if one.startswith("#")]
    outside = [one for one in parsed.links if not one.startswith("#")]
    assert set(inside) <= set(parsed.ids)
    assert any(one.startswith("trial-") for one in inside)
    assert any(one.endswith(".parquet") for one in outside)
    assert "trials.jsonl" in outside
    for one in outside:
        assert (run.root / one).exists(), one


def test_a_page_elsewhere_links_back_to_the_run(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "page.html"
    path.parent.mkdir()
    write_html(run, report_table(run), path)
    balance = _Balance()
    balance.feed(path.read_text())
    for one in balance.links:
        assert one.startswith("#") or (path.parent / one).exists(), one


def test_the_end_of_a_failed_trials_log_is_on_the_page(run: Run, text: str) -> None:
    assert "line 199" in text
    assert "first line" not in text
    assert "[server.log]" in log_tail(run, run.trials[3].trial_id)
    assert log_tail(run, "t9999-none") == ""


def test_tables_have_scopes_and_say_how_they_are_sorted(text: str) -> None:
    markup = _markup(text)
    heads = re.findall(r"<th [^>]*>", markup)
    assert heads
    assert all("scope=" in head for head in heads)
    assert all('aria-sort="none"' in head for head in heads if "<button" in markup and 'scope="col" aria' in head)
    levels = [int(level) for level in re.findall(r"<h([1-6])>", markup)]
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))


def test_the_figures_hold_what_was_measured(run: Run) -> None:
    drawn = {name: one.data for name, one in figures(story_of(run)).items()}
    json.dumps(drawn, allow_nan=False)
    assert all(drawn[name] for name in ("front", "cdf", "percentiles", "engines", "timeline", "progress", "phases"))
    lines = drawn["cdf"]["data"]  # type: ignore[index]
    assert [line["name"].split()[0] for line in lines] == ["ctranslate2", "onnxruntime", "transformers"]
    assert lines[0]["x"][len(lines[0]["x"]) // 2] == pytest.approx(20.0, rel=0.05)
    tail = [line for line in drawn["percentiles"]["data"] if line["mode"] == "lines"]  # type: ignore[index]
    assert tail[0]["x"][0] == 2.0
    assert tail[0]["customdata"][0] == "50"
    assert tail[0]["y"] == sorted(tail[0]["y"])
    points = {point["engine"]: point for point in drawn["front"]["front"]["points"]}  # type: ignore[index]
    assert points["ctranslate2"]["chosen"]
    assert points["ctranslate2"]["m"]["latency_p50_ms"][0] == pytest.approx(20.0, rel=0.05)
    best = next(line for line in drawn["progress"]["data"] if line["name"] == "best so far")  # type: ignore[index]
    assert best["y"] == sorted(best["y"], reverse=True)
    assert [choice["name"].split(":")[0] for choice in drawn["timeline"]["choices"]] == [
        "trial 2",
        "trial 3",
        "trial 1",
    ]  # type: ignore[index]


def test_names_with_markup_are_plain_text_for_plotly_too(tmp_path: Path) -> None:
    sent = records(20.0)
    odd = candidate("fake", options={"note": "<b>bold</b>"})
    run = read_run(store(tmp_path, [(measured_trial(1, odd, sent), sent)]))
    drawn = re.sub(
        r'"choices": \[\{"name": "[^"]*"', "", json.dumps([one.data for one in figures(story_of(run)).values()])
    )
    assert "<b>bold" not in drawn
    assert "&lt;b&gt;bold" in drawn


def test_a_run_of_failures_has_a_page_that_says_so(tmp_path: Path) -> None:
    run = read_run(store(tmp_path, [failed(1, candidate())]))
    text = page(run, report_table(run))
    assert "No recommendation" in text
    assert "it would not start" in text
    assert "No trial gave numbers" in text
    assert 'id="plot-' not in text
    assert "* plotly.js v" not in text


def test_an_empty_run_has_a_page(tmp_path: Path) -> None:
    run = read_run(store(tmp_path, []))
    assert "The run holds no trial" in page(run, report_table(run))


def test_raw_records_that_are_gone_leave_the_other_figures(tmp_path: Path) -> None:
    run = read_run(store(tmp_path, [trial(1, candidate(), (20.0, 19.0, 21.0))]))
    drawn = figures(story_of(run))
    assert drawn["cdf"].data is None
    assert drawn["progress"].data is not None
    assert page(run, report_table(run)).count("No raw request records are left") == 2


def test_a_trial_whose_raw_records_are_damaged_is_named_where_it_is_missing(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.root, tmp_path / "copy")
    copied = read_run(tmp_path / "copy")
    path = next(copied.layout.requests(t.trial_id) for t in copied.trials if t.outcome == "ok")
    path.write_bytes(path.read_bytes()[:-20])
    message = f"Left out: {path.stem}, whose raw records are missing or damaged."
    assert figures(story_of(copied))["cdf"].capped == message
    output = comparison_page(compare([story_of(run), story_of(copied)]), tmp_path)
    assert f"Left out: B {path.stem}, whose raw records are missing or damaged." in output
    assert message not in page(run, report_table(run))


def test_five_hundred_trials_stay_readable_and_bounded(tmp_path: Path) -> None:
    trials = [
        trial(n, candidate(batch_size=n, workers=1 + n % 4), (20.0 + n, 19.0 + n, 21.0 + n)) for n in range(1, 481)
    ]
    trials += [failed(n, candidate(batch_size=n)) for n in range(481, 501)]
    run = read_run(store(tmp_path, trials))
    text = page(run, report_table(run))
    assert len(text.encode()) < 8_500_000
    assert text.count('<details class="trial"') == SECTIONS
    assert "200 of 500 trials have a section" in text
    assert text.count('<article class="failure">') == 20
    balance = _Balance()
    balance.feed(text)
    assert {one[1:] for one in balance.links if one.startswith("#")} <= set(balance.ids)


def test_a_figure_that_leaves_candidates_out_says_how_many_which_and_why(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = page(run, report_table(run))
    assert 'class="note capped"' not in whole
    for name, most in (("CURVES", 2), ("TIMELINES", 1), ("LINES_SHOWN", 2), ("PHASES_SHOWN", 1), ("FRONT_POINTS", 2)):
        monkeypatch.setattr(drawn, name, most)
    output = _markup(page(run, report_table(run)))
    assert output.count("2 of 3 candidates shown: the recommended one, then feasible ones by latency_p50_ms") == 2
    assert (
        "2 of 3 candidates shown: the best by latency_p50_ms, to stay legible; the result table has every one" in output
    )
    assert "1 of 4 trials shown: the recommended one, its verification, then the best" in output
    for one in run.trials[:3]:
        assert output.count(one.candidate.engine) >= 2, "the table is complete whatever the figures leave out"


def test_the_name_of_a_trial_without_a_section_leads_to_its_own_records(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "leads to its raw records" not in page(run, report_table(run))
    monkeypatch.setattr(html, "SECTIONS", 1)
    output = page(run, report_table(run))
    links = _Balance()
    links.feed(output)
    left = [trial for trial in run.trials if trial.outcome == "ok"][-1]
    wanted = (
        run.layout.requests(left.trial_id) if run.layout.requests(left.trial_id).exists() else run.layout.trials_jsonl
    )
    assert f">{left.trial_id}</a>" in output
    assert wanted.relative_to(run.root).as_posix() in links.links
    assert "leads to its raw records" in output


def test_the_times_of_a_trial_are_read_without_the_rest(run: Run) -> None:
    trial = next(one for one in run.trials if run.layout.requests(one.trial_id).exists())
    assert list(read_requests(run.root, trial.trial_id, ("done_ns", "user")).columns) == ["done_ns", "user"]


def test_an_engine_has_one_colour_in_table_and_figures_whatever_they_leave_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CURVES", "FRONT_POINTS"):
        monkeypatch.setattr(drawn, name, 1)
    made = []
    for number, (engine, median_ms) in enumerate((("ctranslate2", 60.0), ("t5", 20.0)), start=1):
        sent = records(median_ms, n=60)
        made.append((measured_trial(number, candidate(engine), sent), sent))
    story = story_of(read_run(store(tmp_path, made)))
    found = figures(story)
    assert [point["colour"] for point in (found["front"].data or {})["front"]["points"]] == ["@e1"]
    for name in ("cdf", "percentiles"):
        lines = [one for one in (found[name].data or {})["data"] if one["mode"] == "lines" and one.get("name")]
        assert lines[0]["line"]["color"] == "@e1", "t5 is the second engine of the run, though the only one drawn"
