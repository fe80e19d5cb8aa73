"""A trial over time: counts are conserved, a stall is seen, telemetry is drawn where there is any."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.records import RequestRecord
from harness.report.figures.timeline import timeline_figure
from harness.report.series.timeline import MOST_BINS, timeline
from harness.store.reader import Run, read_run
from harness.store.telemetry_table import write_columns
from tests.harness.choose.runs import candidate, failed, measured_trial, records, store


def _open_loop(n: int = 1000, rate_rps: float = 100.0, stall: tuple[float, float] = (4.0, 6.0)) -> list[RequestRecord]:
    """One request every 1/rate; the server answers in 5 ms, except that nothing leaves it during the stall."""
    made = []
    for record, seq in zip(records(5.0, n=n - 16), range(n), strict=True):
        due = int(seq / rate_rps * 1e9)
        done = due + 5_000_000
        if stall[0] * 1e9 <= done < stall[1] * 1e9:
            done = int(stall[1] * 1e9)
        outcome = "server_error" if seq % 100 == 50 else "ok"
        made.append(
            replace(
                record,
                seq=seq,
                intended_ns=due,
                sent_ns=due + 100_000,
                done_ns=done,
                outcome=outcome,
                is_warmup=seq < 16,
            )
        )
    return made


@pytest.fixture
def run(tmp_path: Path) -> Run:
    sent = _open_loop()
    return read_run(store(tmp_path, [(measured_trial(1, candidate(), sent), sent), failed(2, candidate("t5"))]))


def test_every_request_is_in_exactly_one_bin(run: Run) -> None:
    line = timeline(run, run.trials[0])
    assert line is not None
    assert len(line.at_s) <= MOST_BINS + 1
    assert (line.asked_rps * line.width_s).sum() == pytest.approx(1000)
    assert (line.sent_rps * line.width_s).sum() == pytest.approx(1000)
    assert ((line.answered_rps + line.failed_rps) * line.width_s).sum() == pytest.approx(1000)
    assert (line.failed_rps * line.width_s).sum() == pytest.approx(10)
    assert line.warmup_s == pytest.approx(-0.16)


def test_a_stall_shows_in_flight_latency_and_answers(run: Run) -> None:
    line = timeline(run, run.trials[0])
    assert line is not None
    assert line.in_flight.max() == pytest.approx(200, abs=25)
    assert np.nanmax(line.latency_max_ms) == pytest.approx(2000, rel=0.02)
    during = (line.at_s > 4.0) & (line.at_s < 5.6)
    assert line.answered_rps[during].sum() == 0
    assert line.asked_rps[during].mean() == pytest.approx(100, rel=0.1)


def test_a_trial_without_records_has_none(run: Run) -> None:
    assert timeline(run, run.trials[1]) is None


def test_panels_stand_below_each_other_and_telemetry_adds_its_own(run: Run) -> None:
    bare = timeline(run, run.trials[0])
    assert bare is not None
    assert len(_panels(timeline_figure(bare))) == 4
    columns = {
        "t_ns": [0, 10**9],
        "cpu_frac_engine": [0.5, 0.7],
        "cpu_frac_client": [0.1, None],
        "gpu_power_w": [None] * 2,
    }
    path = run.layout.telemetry(run.trials[0].trial_id)
    path.parent.mkdir()
    write_columns(path, columns)
    line = timeline(run, run.trials[0])
    assert line is not None
    assert set(line.resources) == {"cpu_frac_engine", "cpu_frac_client"}
    domains = _panels(timeline_figure(line))
    assert len(domains) == 5
    for upper, lower in itertools.pairwise(domains):
        assert upper[0] > lower[1]
    assert domains[-1][0] == pytest.approx(0.0, abs=1e-9)


def _panels(figure: dict[str, dict[str, dict[str, list[float]]]]) -> list[list[float]]:
    axes = [name for name in figure["layout"] if name.startswith("yaxis")]
    return [figure["layout"][name]["domain"] for name in sorted(axes, key=lambda name: int(name[5:] or 1))]


def test_what_the_server_published_is_drawn_counters_as_what_they_grew_by(run: Run) -> None:
    path = run.layout.engine_metrics(run.trials[0].trial_id)
    path.parent.mkdir()
    columns = {
        "t_ns": [0, 10**9, 3 * 10**9],
        "running": [1.0, 2.0, 2.0],
        "waiting": [0.0, None, 3.0],
        "batch_sum": [0.0, 6.0, 6.0],
        "batch_count": [0.0, 2.0, 2.0],
        "prefix_hits": [0.0, 50.0, 20.0],
        "prefix_queries": [100.0, 200.0, 80.0],
        "preemptions": [4.0, 4.0, 10.0],
        "refused": [0.0, 0.0, 0.0],
    }
    write_columns(path, columns)
    line = timeline(run, run.trials[0])
    assert line is not None
    assert list(line.engine_s - line.engine_s[0]) == [0.0, 1.0, 3.0]
    assert line.engine_s[0] == pytest.approx(line.warmup_s)  # the first request, of the warm-up, was due at 0
    nan = np.nan
    wanted = {
        "running": [1.0, 2.0, 2.0],
        "waiting": [0.0, nan, 3.0],
        "batch_size": [nan, 3.0, nan],
        "prefix_hit_frac": [nan, 0.5, 0.25],
        "preemptions_per_s": [nan, 0.0, 3.0],
        "refused_per_s": [nan, 0.0, 0.0],
    }
    assert set(line.engine) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(line.engine[name], values, err_msg=name)
    figure = timeline_figure(line)
    names = [trace["name"] for trace in figure["data"]]
    assert {"waiting", "running", "requests in a step", "hits", "preempted"} <= set(names)
    assert "refused" not in names  # it never left 0
    assert len(_panels(figure)) == 8


def test_damaged_metrics_of_the_server_leave_the_rest_of_the_time_line(run: Run) -> None:
    path = run.layout.engine_metrics(run.trials[0].trial_id)
    path.parent.mkdir()
    path.write_bytes(b"torn")
    line = timeline(run, run.trials[0])
    assert line is not None
    assert line.engine == {}


def test_a_share_of_nothing_is_drawn_inside_its_panel_and_every_moment_has_a_mark(run: Run) -> None:
    times = [float(second * 1_000_000_000) for second in (-2, 0, 1, 3, 4)]
    columns = {
        "t_ns": times, "took_ms": [1.0] * 5, "prefix_hits": [0.0] * 5, "prefix_queries": [0.0, 9.0, 9.0, 18.0, 18.0],
    }  # fmt: skip
    path = run.layout.engine_metrics(run.trials[0].trial_id)
    path.parent.mkdir(exist_ok=True)
    write_columns(path, {name: list(values) for name, values in columns.items()})
    made = timeline(run, run.trials[0])
    assert made is not None
    figure = timeline_figure(made)
    (hits,) = (trace for trace in figure["data"] if trace["name"] == "hits")
    assert hits["mode"] == "lines+markers"  # no two of its moments are neighbours, so lines alone would show none
    axis = figure["layout"][hits["yaxis"].replace("y", "yaxis")]
    assert axis["range"][0] < 0 < 100 < axis["range"][1]
    first, last = figure["layout"]["xaxis"]["range"]
    assert first == pytest.approx(min(made.engine_s))
    assert last == pytest.approx(max(made.at_s))


def test_without_recorded_intentions_no_lag_is_drawn(run: Run) -> None:
    made = timeline(run, run.trials[0])
    assert made is not None
    none = replace(made, lag_max_ms=np.zeros_like(made.lag_max_ms))
    assert "lag" in [trace["name"] for trace in timeline_figure(made)["data"]]
    assert "lag" not in [trace["name"] for trace in timeline_figure(none)["data"]]
