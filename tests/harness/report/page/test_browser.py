"""The page in a real browser: no complaint, no request, tables sort, plots draw, dark, print, keyboard."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.report.content.comparison import compare
from harness.report.content.result_table import report_table
from harness.report.content.run_summary import story_of
from harness.report.content.sections import Cell, Head, Section
from harness.report.page.comparison_page import write_comparison
from harness.report.page.elements import Linker
from harness.report.page.run_page import document, write_html
from harness.store.reader import read_run
from tests.harness.choose.runs import candidate, failed, measured_trial, records, store
from tests.harness.report.page.browser import Tab, browser, chromium

pytestmark = [pytest.mark.heavy, pytest.mark.skipif(chromium() is None, reason="no Chromium: apt-get install chromium")]

SORTED = "Array.from(document.querySelectorAll('#results tbody tr')).map(r => Number(r.cells[{column}].dataset.sort))"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    runs = []
    for place in range(2):
        made = []
        for number in range(1, 11):
            engine = ("transformers", "ctranslate2", "t5")[number % 3]
            what = candidate(engine, batch_size=1 + number % 4, workers=1 + number % 2)
            sent = records(10.0 * number + place, seed=number, n=120)
            made.append((measured_trial(number, what, sent), sent))
        bad = failed(11, candidate("t5", dtype="bf16"), "crashed", "<b>it</b> ended")
        run = read_run(store(folder / f"results{place}", [*made, bad]))
        runs.append(run)
    write_html(runs[0], report_table(runs[0]), runs[0].layout.report_html)
    both = runs[0].root / "compare.html"
    write_comparison(compare([story_of(run) for run in runs]), both)
    long = folder / "long.html"
    heads = (Head(title="Name"), Head(title="Size", is_number=True))
    rows = tuple((Cell(text=f"row {n % 7}"), Cell(text=str(n), sort=(n * 37) % 451)) for n in range(451))
    long.write_text(
        document(
            "Long",
            "",
            "",
            [Linker({}, {}).section(Section(key="results", title="Results", heads=heads, rows=rows))],
            {},
        )
    )
    nothing = read_run(store(folder / "nothing", [failed(1, candidate())]))
    write_html(nothing, report_table(nothing), nothing.layout.report_html)
    return {"run": runs[0].layout.report_html, "both": both, "nothing": nothing.layout.report_html, "long": long}


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.mark.parametrize("name", ["run", "both", "nothing", "long"])
def test_a_page_opens_without_complaint_and_without_any_request(name: str, tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages[name])
    assert tab.faults == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []
    assert tab.js("document.documentElement.scrollWidth") <= 1280


def test_every_plot_is_drawn_with_data(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["run"])
    drawn = tab.js(
        "Object.fromEntries(Array.from(document.querySelectorAll('.plot')).map(p => "
        "[p.id, p.querySelectorAll('.trace, .point, .points path').length]))"
    )
    names = ["front", "cdf", "percentiles", "engines", "timeline", "progress", "importance", "parallel", "phases"]
    assert set(drawn) == {f"plot-{name}" for name in names}
    assert all(count > 0 for count in drawn.values()), drawn


def test_a_table_sorts_by_click_and_by_key_and_says_so(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["run"])
    titles = tab.js("Array.from(document.querySelectorAll('#results thead th')).map(h => h.textContent)")
    column = titles.index("P99 (ms)")
    head = f"document.querySelectorAll('#results thead th')[{column}]"
    tab.js(f"{head}.querySelector('button').click()")
    values = tab.js(SORTED.format(column=column))
    assert values == sorted(values)
    assert tab.js(f"{head}.getAttribute('aria-sort')") == "ascending"
    tab.js(f"{head}.querySelector('button').focus()")
    tab.press("Enter", code=13, text="\r")
    assert tab.js(SORTED.format(column=column)) == sorted(values, reverse=True)
    assert tab.js(f"{head}.getAttribute('aria-sort')") == "descending"
    assert tab.js("document.querySelectorAll('#results th[aria-sort=none]').length") == len(titles) - 1


def test_of_a_long_table_the_first_rows_lie_in_the_page_and_all_are_sorted(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["long"])
    count = "document.querySelectorAll('#results tbody tr').length"
    assert tab.js(count) == 200
    assert tab.js("document.querySelector('.more span').textContent") == "The first 200 of 451 rows, as sorted."
    head = "document.querySelectorAll('#results thead button')[1]"
    tab.js(f"{head}.click()")
    tab.js(f"{head}.click()")
    assert tab.js(SORTED.format(column=1)) == list(range(450, 250, -1)), (
        "rows out of the page are sorted with the others"
    )
    tab.js("document.querySelectorAll('.more button')[1].click()")
    assert tab.js(SORTED.format(column=1)) == list(range(450, -1, -1))
    assert tab.js("document.querySelector('.more').hidden")


def test_a_long_table_scrolls_under_its_heads_and_a_short_one_is_shown_whole(tab: Tab, pages: dict[str, Path]) -> None:
    box = "document.querySelector('#results .sortable').parentElement"
    top = f"{box}.querySelector('thead th').getBoundingClientRect().top - {box}.getBoundingClientRect().top"
    tab.open(pages["run"])
    assert tab.js(f"{box}.scrollHeight - {box}.clientHeight") <= 1
    tab.open(pages["long"])
    assert tab.js(f"{box}.clientHeight") < 900
    assert tab.js(f"{box}.scrollHeight") > 2000
    before = tab.js(top)
    tab.js(f"{box}.scrollTop = 1000")
    assert tab.js(f"{box}.scrollTop") == 1000
    assert tab.js(top) == before, "the heads stay in sight"


def test_the_filter_leaves_the_rows_that_have_every_word(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["run"])
    tab.js("document.querySelector('.filter input').focus()")
    tab.call("Input.insertText", text="t5")
    shown = tab.js(
        "Array.from(document.querySelectorAll('#results tbody tr')).filter(r => !r.hidden).map(r => r.textContent)"
    )
    assert shown
    assert all("t5" in row for row in shown)
    assert tab.js("document.querySelector('.filter span').textContent") == f"{len(shown)} of 10"


def test_the_front_holds_what_nothing_beats_in_the_metrics_asked_for(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["run"])
    edge = "document.getElementById('plot-front').data[0]"
    assert len(tab.js(f"{edge}.x")) == 1, "the fastest candidate also has the highest throughput"
    tab.js(
        "(() => { const s = document.querySelectorAll('#figure-front select')[1]; s.value = 'peak_memory_mib';"
        " s.dispatchEvent(new Event('change')); })()"
    )
    assert "Peak memory" in tab.js("document.getElementById('plot-front').layout.xaxis.title.text")
    assert "to the left" in tab.js("document.getElementById('front-hint').textContent")


def test_another_trial_of_the_time_line_can_be_chosen(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["run"])
    before = tab.js("document.getElementById('plot-timeline').data.map(t => t.y)")
    tab.js(
        "(() => { const s = document.querySelector('#figure-timeline select'); s.value = '3';"
        " s.dispatchEvent(new Event('change')); })()"
    )
    assert tab.js("document.getElementById('plot-timeline').data.map(t => t.y)") != before


def test_a_number_leads_to_its_trial_unfolded(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["run"])
    target = tab.js("document.querySelector('#results a.raw').getAttribute('href').slice(1)")
    tab.js("document.querySelector('#results a.raw').click()")
    tab.wait(f"document.getElementById('{target}').open")
    assert tab.js("document.activeElement.tagName") == "SUMMARY"


def test_dark_follows_the_system_and_the_button(tab: Tab, pages: dict[str, Path]) -> None:
    shade = "getComputedStyle(document.body).backgroundColor"
    line = "document.getElementById('plot-cdf').data[0].line.color"
    tab.open(pages["run"])
    light, light_line = tab.js(shade), tab.js(line)
    tab.open(pages["run"], dark=True)
    dark, dark_line = tab.js(shade), tab.js(line)
    assert dark != light
    assert dark_line != light_line
    tab.js("document.getElementById('theme').click()")
    assert (tab.js(shade), tab.js(line)) == (light, light_line)
    tab.js("localStorage.clear()")


def test_text_can_be_read_in_both_themes(tab: Tab, pages: dict[str, Path]) -> None:
    for dark in (False, True):
        tab.open(pages["run"], dark=dark)
        for name in ("ink", "soft", "link", "good", "bad", "accent"):
            for ground in ("paper", "panel"):
                assert _contrast(_colour(tab, name), _colour(tab, ground)) >= 4.5, (name, ground, dark)
        for place in range(8):
            assert _contrast(_colour(tab, f"e{place}"), _colour(tab, "paper")) >= 3.0, (place, dark)


def test_paper_is_light_whatever_the_screen_is(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["run"], dark=True)
    tab.js(
        "window.addEventListener('beforeprint', () => { window.printed = "
        "[getComputedStyle(document.body).backgroundColor, document.getElementById('plot-cdf')._fullLayout.width]; })"
    )
    assert tab.pdf().startswith(b"%PDF")
    ground, width = tab.js("window.printed")
    assert ground == "rgb(255, 255, 255)"
    assert width <= 960
    tab.look(dark=True, media="print")
    assert tab.js("getComputedStyle(document.querySelector('nav')).display") == "none"
    tab.look()


def test_a_head_that_is_repeated_on_the_next_sheet_has_its_words(tab: Tab, pages: dict[str, Path]) -> None:
    """Chromium paints no buttons in a repeated head; what it paints instead is the same words, on paper only."""
    tab.open(pages["run"])
    after = "getComputedStyle(document.querySelector('#results thead th'), '::after').content"
    button = "getComputedStyle(document.querySelector('#results thead button')).display"
    assert tab.js(after) == "none"
    tab.look(media="print")
    assert tab.js(after) == '"Choice"'
    assert tab.js(button) == "none"
    tab.look()


def test_tab_reaches_the_page_in_order(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["run"])
    seen = []
    for _ in range(6):
        tab.press("Tab", code=9)
        seen.append(tab.js("document.activeElement.getAttribute('href') || document.activeElement.id"))
    assert seen[:3] == ["#answer", "theme", "#answer"]
    assert tab.js("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_a_telephone_needs_no_sideways_scrolling(tab: Tab, pages: dict[str, Path]) -> None:
    for name in ("run", "both"):
        tab.open(pages[name], width=390, height=800)
        assert tab.js("document.documentElement.scrollWidth") <= 390
        assert tab.faults == []


def test_on_a_telephone_every_line_that_is_drawn_has_a_name_and_the_axes_of_the_search_do_not_touch(
    tab: Tab, pages: dict[str, Path]
) -> None:
    tab.open(pages["run"], width=390, height=800)
    for name in ("cdf", "percentiles"):
        drawn = tab.js(f"document.querySelectorAll('#plot-{name} .scatterlayer .trace .lines path').length")
        named = tab.js(f"Array.from(document.querySelectorAll('#plot-{name} .legendtext')).map(t => t.textContent)")
        assert drawn
        assert len(named) == len(set(named)) >= 2
        assert "t5" in " ".join(named)
    heads = tab.js(
        "Array.from(document.querySelectorAll('#plot-parallel .xtick text')).map(t => t.getBoundingClientRect())"
        ".map(r => [r.left, r.right])"
    )
    assert len(heads) >= 3
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(heads)), heads


def _colour(tab: Tab, name: str) -> str:
    return str(tab.js(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()"))


def _contrast(one: str, other: str) -> float:
    """WCAG 2.1 contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        assert re.fullmatch(r"#[0-9a-f]{6}", colour), colour
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
