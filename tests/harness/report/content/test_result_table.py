"""The field's table: columns, marks, bounds in place of values, reasons for what is missing."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.errors import UsageError
from harness.measure.statistics.estimators import percentile
from harness.records import ChatFacts, Doubt
from harness.report.content.result_table import ReportTable, model_name, report_table
from harness.report.content.run_summary import answer, story_of
from harness.report.text.table_formats import as_csv, as_json, as_markdown, print_table
from harness.report.wording.numbers import number, percent_cell, value_cell
from harness.store.layout import RunLayout
from harness.store.reader import Run, read_run
from harness.wording import claim, label
from tests.harness.choose.runs import candidate, ended, failed, metric, run_of, store, trial

FIELD = [
    "Model", "Engine", "Quantization", "Batch size", "Tensor parallel degree", "Workers", "P50 (ms)", "P90 (ms)",
    "P99 (ms)", "Data quality",
]  # fmt: skip


@pytest.fixture
def run() -> Run:
    fast, slow, broke = candidate("ctranslate2", dtype="int8"), candidate(batch_size=4), candidate("onnxruntime")
    return run_of(
        trial(1, slow, (61.2, 60.0, 62.0), effective_dtype="float32"),
        trial(2, fast, (20.1, 19.8, 20.6)),
        trial(3, broke, (10.0, 9.9, 10.1), violations=("latency_p99_ms 612 ms, at most 500 wanted",)),
        failed(4, candidate(batch_size=8), "out_of_memory", "the server\nwas killed"),
        trial(5, fast, (20.3, 20.0, 20.8)),
    )


def _printed(table: ReportTable, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), no_color=True)
    print_table(table, console)
    written: io.StringIO = console.file  # type: ignore[assignment]
    return written.getvalue()


def test_the_published_columns_come_first_and_in_the_published_order(run: Run) -> None:
    assert [column.title for column in report_table(run).columns][1:11] == FIELD


@pytest.mark.parametrize(
    ("reported", "model", "dtype"), [(("llama", "float16"), "llama", "float16"), (("", "unknown"), "my-llm", "unknown")]
)
def test_an_attached_server_is_shown_as_it_names_itself(reported: tuple[str, str], model: str, dtype: str) -> None:
    served, computed = reported
    attached = candidate("attach", options={"url": "http://h", "model_name": "my-llm"})
    run = run_of(trial(1, attached, (20.1, 19.8, 20.6), served_model=served, effective_dtype=computed))
    (row,) = report_table(run).rows
    assert row.cells[1:4] == (model, "attach", dtype)
    assert model_name(run) == model
    assert label(attached) == "attach model_name=my-llm, url=http://h"
    (cells,) = csv.DictReader(io.StringIO(as_csv(run, report_table(run))))
    assert cells["model"] == model


def test_the_report_states_who_applied_the_chat_template_and_how_long_the_prompts_are() -> None:
    ours, theirs = (ChatFacts(template_by=who, tokens_p50=31, tokens_max=57) for who in ("dyno", "server"))
    run = run_of(
        trial(1, candidate("ctranslate2"), (20.1, 19.8, 20.6), chat=ours),
        trial(2, candidate("transformers"), (20.1, 19.8, 20.6), chat=ours),
        trial(3, candidate("vllm"), (20.1, 19.8, 20.6), chat=theirs),
    )
    assert [note for note in report_table(run).notes if note.startswith("chat")] == [
        "chat (ctranslate2, transformers): the template was applied by dyno, before sending; input tokens count it; "
        "prompts of 31 tokens (P50), 57 at most",
        "chat (vllm): the template was applied by its server; input tokens count it; "
        "prompts of 31 tokens (P50), 57 at most",
    ]


def test_a_run_of_several_machines_names_the_machine_of_each_trial(run: Run) -> None:
    assert not any("machines" in note for note in report_table(run).notes)
    trials = [replace(each, machine="ab"[each.number % 2]) for each in run.trials]
    assert "measured on 2 machines of one class, each trial on one. b: trials 1, 3, 5; a: trials 2, 4." in (
        report_table(replace(run, trials=tuple(trials))).notes
    )


def test_rows_are_sorted_by_the_objective_and_broken_ones_come_last(run: Run) -> None:
    table = report_table(run)
    assert [row.trial.number for row in table.rows] == [2, 5, 1, 3]
    assert [row.mark for row in table.rows] == ["best", "best", "", "broke constraint"]


def test_a_trial_that_ended_early_is_a_row_with_a_bound_and_no_percentile_of_its_tail() -> None:
    best = trial(1, candidate(), (20.0, 19.8, 20.6))
    lost = ended(2, candidate(batch_size=4), best, 0.3)
    made = run_of(best, lost, failed(3, candidate(batch_size=8)))
    table = report_table(made)
    assert [row.mark for row in table.rows] == ["best", "ended early"]
    cells = dict(zip([column.title for column in table.columns], table.rows[1].cells, strict=True))
    assert cells["P50 (ms)"] == ">= 26.0 (n=100)"
    assert (cells["P99 (ms)"], cells["Requests/s"]) == ("–", "–")
    assert [failure.trial_id[:5] for failure in table.failures] == ["t0003"]
    assert any(note.startswith(f"ended early, since they surely lose: {lost.trial_id};") for note in table.notes)
    assert "⋯ ended early" in _printed(table, 120)
    assert "races allowed for what launches differ by: two launches of t5 differ by 5 % (assumed)." in table.notes
    rows = list(csv.DictReader(io.StringIO(as_csv(made, table))))
    assert [row["outcome"] for row in rows] == ["ok", "ended_early", "launch_failed"]
    assert (rows[1]["latency_p50_ms_low"], rows[1]["latency_p50_ms_high"], rows[1]["latency_p99_ms"]) == (
        "26.0",
        "",
        "",
    )


def test_a_probed_trial_is_marked_so_and_apart_from_lost_races() -> None:
    best = trial(1, candidate(), (20.0, 19.8, 20.6))
    lost, probed = ended(2, candidate(batch_size=4), best, 0.3), ended(3, candidate(batch_size=8), best, 0.5)
    assert probed.race is not None
    table = report_table(run_of(best, lost, replace(probed, race=replace(probed.race, is_probe=True, level=0.025))))
    assert [row.mark for row in table.rows] == ["best", "ended early", "probed"]
    assert "· probed" in _printed(table, 120)
    assert any(note.startswith(f"ended early, since they surely lose: {lost.trial_id};") for note in table.notes)
    note = next(note for note in table.notes if note.startswith("probed alone"))
    assert probed.trial_id in note
    assert "(an error of 2.5 % for each)" in note


def test_a_throughput_that_is_only_bounded_above_is_shown_so() -> None:
    bound = replace(metric(9.0, high=9.5, unit="requests/s", n=100), method="race")
    assert (value_cell(bound), claim(bound)) == ("<= 9.50 (n=100)", "<= 9.5 requests/s (n=100)")


def test_another_metric_may_sort_and_an_unknown_one_is_refused(run: Run) -> None:
    assert [row.trial.number for row in report_table(run, "peak_memory_mib").rows][-1] == 3
    with pytest.raises(UsageError, match="--sort p50: not a metric; one of: latency_p50_ms"):
        report_table(run, "p50")


def test_a_failed_trial_is_listed_with_its_reason_on_one_line(run: Run) -> None:
    (failure,) = report_table(run).failures
    assert failure.reason == "the server was killed"
    assert "out_of_memory: transformers fp32, batch 8" in _printed(report_table(run), 200)


def test_an_unbounded_tail_is_shown_as_a_lower_bound() -> None:
    tail = {"latency_p99_ms": metric(70.0, 61.2, None, n=150)}
    table = report_table(run_of(trial(1, candidate(), (20.0, 19.0, 21.0), metrics=tail)))
    assert ">= 61.2 (n=150)" in table.rows[0].cells
    assert any("P99 seen there: 70.0 ms" in note for note in table.notes)


def test_a_percentile_of_a_handful_is_shown_with_its_count() -> None:
    seen = percentile([8_000_000] * 3, 0.5)
    table = report_table(run_of(trial(1, candidate(), (20.0, 19.0, 21.0), metrics={"latency_p50_ms": seen})))
    assert "8.00 (n=3)" in table.rows[0].cells
    assert any("bound it on neither side" in note for note in table.notes)
    assert claim(seen) == "8 ms (n=3)"


def test_what_really_computed_is_said_where_it_differs() -> None:
    shown = report_table(
        run_of(
            trial(1, candidate(dtype="bf16"), (20.0, 19.0, 21.0), effective_dtype="fp32"),
            trial(2, candidate(dtype="int8"), (30.0, 29.0, 31.0), effective_dtype="int8 (dynamic)"),
            trial(3, candidate(dtype="fp32"), (40.0, 39.0, 41.0), effective_dtype="float32"),
        )
    )
    assert [row.cells[3] for row in shown.rows] == ["bf16 (ran fp32)", "int8 (dynamic)", "fp32"]


def test_axes_that_vary_get_a_column_and_others_do_not(run: Run) -> None:
    assert "Threads" not in [column.title for column in report_table(run).columns]
    varied = run_of(
        trial(1, candidate(threads=1), (20, 19, 21)), trial(2, candidate(threads=2, options={"x": 1}), (30, 29, 31))
    )
    titles = [column.title for column in report_table(varied).columns]
    assert "Threads" in titles
    assert "x" in titles


def test_doubts_of_one_kind_are_one_note() -> None:
    doubts = [Doubt(kind="short_window", sentence=f"it took 0.{n} s; one hiccup moves every number") for n in (4, 5)]
    table = report_table(
        run_of(*(trial(n, candidate(batch_size=n), (20, 19, 21), doubts=(doubts[n - 1],)) for n in (1, 2)))
    )
    (note,) = [note for note in table.notes if "hiccup" in note]
    assert "for instance: it took 0.4 s" in note


def test_several_doubts_of_one_kind_in_one_trial_name_it_once() -> None:
    doubts = [Doubt(kind="task_errors", sentence=f"process {n} had errors") for n in (1, 2)]
    one = trial(1, candidate(), (20, 19, 21), doubts=doubts)
    (note,) = [note for note in report_table(run_of(one)).notes if "had errors" in note]
    assert note == f"in doubt ({one.trial_id}): for instance: process 1 had errors"


def test_a_narrow_terminal_keeps_the_published_columns_whole_and_names_the_rest(run: Run) -> None:
    shown = _printed(report_table(run), 110)
    for word in ("flan-t5-bench", "transformers", "Quantization", "parallel", "Normal"):
        assert word in shown
    assert "Left out for want of width:" in shown
    assert "Left out" not in _printed(report_table(run), 300)


def test_markdown_is_one_table_whose_rows_have_equal_cells(run: Run) -> None:
    lines = [line for line in as_markdown(report_table(run)).splitlines() if line.startswith("|")]
    main = lines[: lines.index(next(line for line in lines if "Outcome" in line))]
    assert len({line.count("|") for line in main}) == 1
    assert "**best**" in main[2]


def test_csv_holds_every_trial_and_every_number_with_its_interval(run: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(run, report_table(run)))))
    assert [row["trial_id"][:5] for row in rows] == ["t0002", "t0005", "t0001", "t0003", "t0004"]
    assert rows[0]["choice"] == "best"
    assert float(rows[0]["latency_p50_ms"]) == 20.1
    assert float(rows[0]["latency_p50_ms_low"]) == 19.8
    assert rows[0]["latency_p50_ms_n"] == "400"
    assert rows[4]["outcome"] == "out_of_memory"
    assert rows[4]["latency_p50_ms"] == ""
    assert rows[3]["violations"] == "latency_p99_ms 612 ms, at most 500 wanted"


def test_json_holds_the_trials_as_stored(run: Run) -> None:
    answer = json.loads(as_json(run, report_table(run)))
    assert answer["model"] == "flan-t5-bench"
    assert [trial["number"] for trial in answer["trials"]] == [2, 5, 1, 3, 4]
    assert answer["trials"][0]["summary"]["metrics"]["latency_p50_ms"]["value"] == 20.1


def test_a_run_without_a_feasible_trial_still_has_its_table() -> None:
    table = report_table(run_of(trial(1, candidate(), (20, 19, 21), violations=("too slow",))))
    assert table.rows[0].mark == "broke constraint"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.00"), (0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12346")],
)
def test_digits_that_mean_something(value: float, shown: str) -> None:
    assert number(value) == shown


def test_absent_values_are_a_dash_never_a_zero() -> None:
    assert value_cell(None) == "–"
    assert percent_cell(None) == "–"
    assert percent_cell(metric(0.0, unit="frac")) == "0 %"
    assert percent_cell(metric(0.0125, unit="frac")) == "1.2 %"
    assert percent_cell(metric(1.0, unit="frac")) == "100 %"


def test_on_80_columns_what_is_the_same_everywhere_is_one_line_and_every_row_fits(run: Run) -> None:
    message = "\n".join(_printed(report_table(run), 80).splitlines())
    assert "The same everywhere: Model flan-t5-bench" in message
    rows = [line for line in message.splitlines() if line.startswith(("★", "≈", "✗", "   "))]
    assert rows
    assert max(len(line.rstrip()) for line in rows) <= 80


def test_a_search_that_has_not_ended_is_called_so_in_answer_and_notes(tmp_path: Path) -> None:
    root = store(tmp_path, [trial(1, candidate(), (61.0, 60.0, 62.0))])
    RunLayout(root).search_json.unlink(missing_ok=True)
    open_run = read_run(root)
    assert any("interrupted after 1 trials" in note for note in report_table(open_run).notes)
    assert answer(story_of(open_run)).title.startswith("Recommended so far")
    RunLayout(root).search_json.write_text("{}")
    assert not any("interrupted" in note for note in report_table(open_run).notes)
    assert answer(story_of(open_run)).title == "Recommended"
