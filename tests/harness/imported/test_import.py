"""Results of other tools become runs: files that each tool wrote (files/README.md), measured by our definitions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.choose.recommendation import choose
from harness.cli.main import run
from harness.errors import MeasurementInvalid, UsageError
from harness.gate.gate import gate
from harness.gate.rules import Rules
from harness.imported.files import READERS, results_in
from harness.imported.result import Result
from harness.imported.runs import summary_of, write_runs
from harness.records import Metric
from harness.report.content.reported import reported
from harness.report.content.run_summary import story_of
from harness.store.reader import Run, read_run

FILES = Path(__file__).parent / "files"
VLLM = FILES / "vllm-bench" / "openai-4-users.json"
GUIDELLM = FILES / "guidellm" / "benchmarks.json"
AIPERF = FILES / "aiperf" / "profile_export.jsonl"
INFERENCE_PERF = FILES / "inference-perf" / "per_request_lifecycle_metrics.json"
LLAMA_BENCH = FILES / "llama-bench" / "tests.json"
WITH_REQUESTS = [VLLM, GUIDELLM, AIPERF, INFERENCE_PERF]
ALL = [*WITH_REQUESTS, LLAMA_BENCH]


def _named(path: Path) -> str:
    return path.parent.name


def _imported(path: Path, folder: Path) -> Run:
    (root,) = write_runs(results_in([path]), folder)
    return read_run(root)


def _ours(result: Result) -> dict[str, Metric]:
    return dict(summary_of(result).metrics)


def test_there_is_a_file_that_each_tool_wrote() -> None:
    assert {result.tool for path in ALL for result in results_in([path])} == {reader.tool for reader in READERS}
    assert all(file.stat().st_size <= 100_000 for file in FILES.rglob("*") if file.is_file())


@pytest.mark.parametrize("path", WITH_REQUESTS, ids=_named)
def test_our_metrics_of_a_tools_requests_are_its_own_where_the_definitions_agree(path: Path) -> None:
    (result,) = results_in([path])
    ours = _ours(result)
    means = {one.metric: one.value for one in result.reported if one.metric.endswith("_mean_ms")}
    assert {"latency_mean_ms", "ttft_mean_ms"} <= set(means)
    for name in ("latency_mean_ms", "ttft_mean_ms"):
        assert ours[name].value == pytest.approx(means[name], rel=0.005), name
    assert ours["latency_p50_ms"].n == ours["error_frac"].n == 48
    assert ours["error_frac"].value == 0.0
    assert ours["output_tokens_per_s"].value == pytest.approx(16 * ours["throughput_rps"].value)


@pytest.mark.parametrize("path", WITH_REQUESTS, ids=_named)
def test_a_closed_load_of_four_users_is_found_again(path: Path) -> None:
    (result,) = results_in([path])
    assert result.load is not None
    assert (result.load.kind, result.load.amount) == ("closed", 4)
    assert {record.user for record in result.requests} <= set(range(5))
    assert not any(record.sent_ns < record.intended_ns for record in result.requests)


@pytest.mark.parametrize("path", ALL, ids=_named)
def test_an_imported_run_states_who_measured_it_and_what_is_not_known(path: Path, tmp_path: Path) -> None:
    stored = _imported(path, tmp_path)
    (trial,) = stored.trials
    assert stored.manifest.imported is not None
    assert path.name in stored.manifest.imported.files
    assert trial.summary is not None
    (doubt,) = (doubt for doubt in trial.doubts if doubt.kind == "imported")
    assert "whether its client kept up" in doubt.sentence
    assert stored.manifest.machine == {}
    assert not {"load_s", "peak_memory_mib", "cpu_frac_client", "cpu_frac_other"} & set(trial.summary.metrics)
    section = reported(story_of(stored))
    assert section is not None
    assert stored.manifest.imported.tool in section.title
    with pytest.raises(MeasurementInvalid, match="imported from"):
        choose(stored)


def test_a_tool_that_sent_no_requests_gives_its_own_numbers_alone(tmp_path: Path) -> None:
    stored = _imported(_without_requests(tmp_path), tmp_path)
    (trial,) = stored.trials
    assert trial.summary is not None
    assert trial.summary.metrics == {}
    assert "--save-detailed" in trial.summary.unavailable["every metric"]
    assert "request_throughput" in [one.name for one in trial.reported]
    verdict = gate([stored], _imported(VLLM, tmp_path / "other"), Rules())
    assert verdict.verdict == "cannot tell"


def _without_requests(folder: Path) -> Path:
    fields = json.loads(VLLM.read_text())
    kept = {name: value for name, value in fields.items() if not isinstance(value, list)}
    (folder / "summary.json").write_text(json.dumps(kept))
    return folder / "summary.json"


def _slower(folder: Path, factor: float) -> Path:
    """The same requests with every answer `factor` times as late."""
    fields = json.loads(VLLM.read_text())
    begin = min(fields["start_times"])
    for name in ("ttfts", "latencies"):
        fields[name] = [value * factor for value in fields[name]]
    fields["itls"] = [[gap * factor for gap in gaps] for gaps in fields["itls"]]
    fields["start_times"] = [begin + (at - begin) * factor for at in fields["start_times"]]
    (folder / "slower.json").write_text(json.dumps(fields))
    return folder / "slower.json"


def test_each_test_of_llama_bench_is_a_rate_that_is_shown_and_not_ranked(tmp_path: Path) -> None:
    stored = _imported(LLAMA_BENCH, tmp_path)
    (trial,) = stored.trials
    assert [one.name.partition(",")[0] for one in trial.reported if "avg_ts" in one.name] == ["pp64", "tg16"]
    assert trial.summary is not None
    assert trial.summary.metrics == {}
    assert "sends no requests" in trial.summary.unavailable["every metric"]


def test_two_imported_runs_are_gated_by_their_requests(tmp_path: Path) -> None:
    before = _imported(VLLM, tmp_path / "a")
    same, worse = _imported(VLLM, tmp_path / "b"), _imported(_slower(tmp_path, 3.0), tmp_path / "c")
    assert gate([before], same, Rules()).verdict in ("pass", "cannot tell")
    verdict = gate([before], worse, Rules())
    assert verdict.verdict == "regressed"
    assert any("imported" in note for note in verdict.notes)


def test_runs_of_two_tools_are_not_gated(tmp_path: Path) -> None:
    verdict = gate([_imported(VLLM, tmp_path / "a")], _imported(GUIDELLM, tmp_path / "b"), Rules())
    assert verdict.verdict == "cannot tell"
    assert any("measured by" in refusal for refusal in verdict.refusals)


def test_either_file_of_aiperf_gives_the_same_result(tmp_path: Path) -> None:
    summary = AIPERF.with_name("profile_export_aiperf.json")
    (result,) = results_in([AIPERF, summary])
    assert [result] == results_in([summary])
    assert result.version == "0.13.0"


def test_results_of_one_tool_and_load_are_the_trials_of_one_run(tmp_path: Path) -> None:
    (root,) = write_runs(results_in([VLLM, _slower(tmp_path, 2.0)]), tmp_path)
    assert [trial.number for trial in read_run(root).trials] == [1, 2]


def _guidellm(change: Callable[[dict[str, Any]], object]) -> bytes:
    fields = json.loads(GUIDELLM.read_text())
    change(fields["benchmarks"][0])
    return json.dumps(fields).encode()


def _vllm(**fields: Any) -> bytes:
    return json.dumps({**json.loads(VLLM.read_text()), **fields}).encode()


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b" \n", "empty file"),
    "cut": (VLLM.read_bytes()[:9000], "expected JSON, got a text that breaks off"),
    "another tool's": (b'{"requests": [1, 2]}', "got another document"),
    "a list": (b"[]", "got another document"),
    "no text": (b"\xff\xfe\x00", "other bytes"),
    "NaN in a time": (_vllm(ttfts=[float("nan")] * 48), "ttfts[0]: expected a number"),
    "a huge number": (_vllm(ttfts=[10**400] * 48), "ttfts[0]: expected a number"),
    "more digits than Python reads": (b'{"avg_ts": ' + b"9" * 5000 + b"}", "no number or nesting"),
    "columns of two lengths": (_vllm(errors=[""]), "errors: expected a list of 48"),
    "a text for a time": (
        _guidellm(lambda one: one["requests"]["successful"][3]["info"]["timings"].update(request_start="noon")),
        "benchmarks[0].requests.successful[3].info.timings.request_start: expected a number",
    ),
    "times that are years apart": (_vllm(start_times=[1e12, *range(47)]), "some that are years apart"),
    "an answer before its request": (
        _guidellm(lambda one: one["requests"]["successful"][3]["info"]["timings"].update(request_end=1.0)),
        "expected answers after their requests",
    ),
    "a load that no scenario can state": (_vllm(request_rate=1e12), "its load cannot be stated"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_result_is_refused_in_one_sentence(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, expected = REFUSED[case]
    path = tmp_path / "file.json"
    path.write_bytes(data)
    assert run(["import", str(path), "--results", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error
    assert expected in error
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_clock_beyond_every_calendar_is_still_read(tmp_path: Path) -> None:
    (tmp_path / "late.json").write_bytes(_guidellm(lambda one: one.update(start_time=9e14)))
    (result,) = results_in([tmp_path / "late.json"])
    assert result.started_utc.startswith("9892-")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.json", tmp_path):
        with pytest.raises(UsageError, match=r"check the path|name the files in it"):
            results_in([path])


def test_the_command_names_the_run_and_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["import", str(GUIDELLM), "--results", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "GuideLLM 0.8.1" in shown.err
    assert shown.out.startswith("Next: dyno report ")
    assert run(["report", shown.out.split()[-1], "--results", str(tmp_path)]) == 0
    assert "What GuideLLM printed" in capsys.readouterr().out


def test_every_reader_has_a_name_of_its_own() -> None:
    assert len({reader.tool for reader in READERS}) == len(READERS)


def test_an_open_loop_without_its_schedule_claims_no_lag(tmp_path: Path) -> None:
    (tmp_path / "open.json").write_bytes(_vllm(request_rate=4.0, max_concurrency=None, queue_times=[0.0] * 48))
    (result,) = results_in([tmp_path / "open.json"])
    assert result.load is not None
    assert (result.load.kind, result.load.amount) == ("poisson", 4.0)
    summary = summary_of(result)
    assert not [name for name in summary.metrics if name.startswith(("lag_", "rate_delivered"))]
    assert "does not record when" in summary.unavailable["lag, delivered rate"]
    (doubt,) = (doubt for doubt in summary.doubts if doubt.kind == "imported")
    assert "a late client is forgiven" in doubt.sentence
