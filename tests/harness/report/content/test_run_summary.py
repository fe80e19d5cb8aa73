"""What a run says in sections: the choice pooled, the verification of the same candidate only, engines, probes."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from harness.records import Probe
from harness.report.content.levels import levels
from harness.report.content.result_table import report_table
from harness.report.content.run_summary import answer, engines, facts, importance, losses, story_of, verified
from harness.report.page.run_page import page
from harness.report.text.sections import print_report, print_section, report_markdown
from harness.store.codec import to_json
from harness.store.reader import read_run
from tests.harness.choose.runs import candidate, failed, metric, run_of, store, trial

SLOW = (61000.0, 60000.0, 62000.0)
FOUR = ("ctranslate2", "onnxruntime", "t5", "transformers")


def test_the_answer_names_the_choice_why_and_that_it_is_not_verified() -> None:
    story = story_of(run_of(trial(1, candidate(), (61.0, 60.0, 62.0)), trial(2, candidate("t5"), (20.0, 19.0, 21.0))))
    what, why, checked = answer(story).paragraphs
    assert what.startswith("t5 fp32")
    assert "the runner-up (transformers fp32" in why
    assert checked.startswith("Verification: not done; dyno recommend ")


def test_two_environments_of_an_engine_keep_their_own_versions_and_names() -> None:
    one, other = candidate(), candidate(python="/envs/new")
    story = story_of(
        run_of(
            replace(trial(1, one, (61.0, 60.0, 62.0)), versions={"torch": "2.13.0"}),
            replace(trial(2, other, (20.0, 19.0, 21.0)), versions={"torch": "2.14.0"}),
            replace(trial(3, candidate("deepspeed", python="auto"), (30.0, 29.0, 31.0)), versions={"torch": "2.12.0"}),
        )
    )
    message = {row[0].text: row[1].text for row in facts(story).rows}
    assert message["engine transformers"] == "torch 2.13.0"
    assert message["engine transformers (python: /envs/new)"] == "torch 2.14.0"
    assert message["engine deepspeed (python: auto)"] == "torch 2.12.0"
    assert answer(story).paragraphs[0].startswith("transformers fp32, batch 1, 1 worker, python /envs/new")
    assert losses(story).rows[0][0].text.endswith("own environment")


def test_a_verification_counts_for_its_own_candidate_only(tmp_path: Path) -> None:
    best = trial(1, candidate("t5"), (20.0, 19.0, 21.0))
    root = store(tmp_path, [best, trial(2, candidate(), (61.0, 60.0, 62.0))])
    path = root / "recommendation" / "verification.json"
    path.parent.mkdir()
    stored = {
        "is_inside": True,
        "sentence": "reproduced: 20.1 ms",
        "trial": to_json(replace(best, trial_id="verify-1")),
    }
    path.write_text(json.dumps(stored))
    assert verified(story_of(read_run(root))) == "reproduced: 20.1 ms"
    stored["trial"] = to_json(trial(2, candidate(), (61.0, 60.0, 62.0)))
    path.write_text(json.dumps(stored))
    assert verified(story_of(read_run(root))).startswith("not done")
    path.write_text("{")
    assert "cannot be read" in verified(story_of(read_run(root)))


def test_the_container_s_best_stands_beside_the_best_of_all_with_what_it_costs(tmp_path: Path) -> None:
    best = trial(1, candidate("accelerate"), (10.0, 9.9, 10.1))
    servable = trial(2, candidate("t5"), (20.0, 19.9, 20.1))
    recommend = {"container": "0.36.0-lmi20"}
    story = story_of(run_of(best, servable, recommend=recommend))
    what, _, contained, _ = answer(story).paragraphs
    assert what.startswith("accelerate")
    assert contained.startswith("In 0.36.0-lmi20: 0.36.0-lmi20 cannot serve the best of all, accelerate fp32")
    assert "is t5 fp32, batch 1, 1 worker: latency_p50_ms 20 ms [19.9, 20.1] against 10 ms" in contained
    assert contained.removeprefix("In 0.36.0-lmi20: ").replace("'", "&#39;") in page(story.run, report_table(story.run))
    assert story_of(run_of(servable, recommend=recommend)).contained is None
    nothing = answer(story_of(run_of(best, recommend=recommend))).paragraphs[2]
    assert nothing.startswith("In 0.36.0-lmi20: --container 0.36.0-lmi20: cannot serve accelerate")


def test_a_verification_of_the_container_s_best_names_it(tmp_path: Path) -> None:
    trials = [trial(1, candidate("accelerate"), (10.0, 9.9, 10.1)), trial(2, candidate("t5"), (20.0, 19.9, 20.1))]
    root = store(tmp_path, trials, recommend={"container": "0.36.0-lmi20"})
    path = root / "recommendation" / "verification.json"
    path.parent.mkdir()
    again = to_json(replace(trials[1], trial_id="verify-1"))
    path.write_text(json.dumps({"is_inside": True, "sentence": "reproduced: 20.1 ms", "trial": again}))
    assert verified(story_of(read_run(root))) == "of t5 fp32, batch 1, 1 worker, reproduced: 20.1 ms"


def test_engines_stand_side_by_side_with_their_best_and_failed_ones_say_so() -> None:
    run = run_of(
        trial(1, candidate(batch_size=4), (61.0, 60.0, 62.0)),
        trial(2, candidate(), (51.0, 50.0, 52.0)),
        trial(3, candidate("t5"), (20.0, 19.0, 21.0)),
        failed(4, candidate("ctranslate2"), "crashed"),
    )
    section = engines(story_of(run))
    assert [row[0].text for row in section.rows] == ["t5", "transformers", "ctranslate2"]
    assert section.rows[1][1].text == "fp32, batch 1, 1 worker"
    assert section.rows[1][-1].text == "2"
    assert section.rows[2][1].text.endswith("(crashed)")


def test_few_candidates_give_a_sentence_in_place_of_importance() -> None:
    section = importance(story_of(run_of(trial(1, candidate(), (61.0, 60.0, 62.0)))))
    assert section.rows == ()
    assert "it takes 8 measured candidates" in section.paragraphs[0]


def test_a_run_without_a_choice_says_why_everywhere() -> None:
    run = run_of(failed(1, candidate()))
    story = story_of(run)
    assert answer(story).title == "No recommendation"
    assert losses(story) is None
    text = report_markdown(story, report_table(run))
    assert "none of 1 candidates finished" in text


def test_probes_of_the_largest_rate_are_told_lowest_first() -> None:
    probes = (
        Probe(
            number=1,
            rate_rps=100.0,
            is_held=False,
            reason="latency_p99_ms 900 ms above 500",
            values={"latency_p99_ms": 900.0},
        ),
        Probe(number=2, rate_rps=50.0, is_held=True, reason="", values={"latency_p99_ms": 80.0, "error_frac": 0.01}),
    )
    run = run_of(trial(1, candidate(), (61.0, 60.0, 62.0), probes=probes))
    section = levels(story_of(run))
    assert section is not None
    assert [row[0].text for row in section.rows] == ["50.0", "100"]
    assert [head.title for head in section.heads][2:4] == ["Latency P99 (ms)", "Errors (%)"]
    assert [cell.text for cell in section.rows[0]] == ["50.0", "yes", "80.0", "1.00", ""]
    assert levels(story_of(run_of(trial(1, candidate(), (61.0, 60.0, 62.0))))) is None


def test_loads_of_a_list_are_shown_by_their_names_in_the_order_measured() -> None:
    probes = (
        Probe(number=1, load="night", is_held=True, reason="", values={"throughput_rps": 9.0}),
        Probe(number=2, load="chat", is_held=False, reason="slow", values={"throughput_rps": 4.0}, is_own=True),
    )
    section = levels(story_of(run_of(trial(1, candidate(), (61.0, 60.0, 62.0), probes=probes))))
    assert section is not None
    assert section.title == "Loads"
    assert [[cell.text for cell in row] for row in section.rows] == [
        ["night", "yes", "9.00", ""],
        ["chat *", "no", "4.00", "slow"],
    ]
    assert "knee" not in section.notes[0]


def test_streaming_and_goodput_get_columns_in_every_format() -> None:
    more = {
        "ttft_p50_ms": metric(5.0, 4.0, 6.0),
        "tpot_p50_ms": metric(2.0, 1.9, 2.1),
        "goodput_rps": metric(9.0, 8.0, 10.0, unit="requests/s"),
        "goodput_frac": metric(0.9, 0.8, 0.95, unit="frac"),
    }
    run = run_of(trial(1, candidate(), (61.0, 60.0, 62.0), metrics=more))
    table = report_table(run)
    titles = [column.title for column in table.columns]
    for title in ("First token P50 (ms)", "Per output token P50 (ms)", "Goodput (requests/s)", "Within SLO"):
        assert title in titles
    assert table.rows[0].cells[titles.index("Within SLO")] == "90 %"
    console = Console(width=400, file=io.StringIO(), no_color=True)
    print_report(story_of(run), table, console)
    assert "Goodput" in console.file.getvalue()  # type: ignore[attr-defined]


def test_an_axis_an_engine_does_not_have_is_a_dash() -> None:
    run = run_of(
        trial(1, candidate("fake", options={"speed": 3}), (20.0, 19.0, 21.0)), trial(2, candidate(), (61.0, 60.0, 62.0))
    )
    table = report_table(run)
    place = [column.title for column in table.columns].index("speed")
    assert [row.cells[place] for row in table.rows] == ["3", "–"]


def test_on_80_columns_no_word_of_a_section_is_broken_and_what_is_left_out_is_named() -> None:
    run = run_of(*(trial(n, candidate(engine, batch_size=n), SLOW) for n, engine in enumerate(FOUR, 1)))
    console = Console(width=80, file=io.StringIO(), no_color=True)
    print_section(engines(story_of(run)), console)
    message = console.file.getvalue()  # type: ignore[attr-defined]
    for word in (*FOUR, "Requests/s", "candidate"):
        assert word in message
    assert "Left out for want of width: " in message
    assert "Candidates" in message.rpartition("Left out")[2]
