"""Opening a bench: what is checked before a run folder exists, who asks the reference, what a record may not hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from engines.api import EngineSpec, QueueOrder
from engines.errors import LaunchFailed, NotReady
from engines.processes.waiting import logger
from harness.errors import DynoError, Interrupted
from harness.records import Candidate
from harness.scenario.load import load_scenario
from harness.scenario.resolve import ResolvedScenario, resolve
from harness.store.run_folder import create_run
from harness.trial.bench import Bench
from harness.trial.launch import MIN_READY_S, shown
from harness.trial.progress import Lines
from harness.trial.reference import Reference

KNOWN = Reference(answers={"p": "a"}, source="transformers fp32")


def _resolved(folder: Path, more: str = "", engines: str = "fake") -> ResolvedScenario:
    path = folder / "s.yaml"
    path.write_text(f"name: s\n{more}\nspace: [{{engine: {engines}}}]\n")
    return resolve(load_scenario(path), path)


def test_bad_prompts_leave_no_run_folder_behind(tmp_path: Path) -> None:
    resolved = _resolved(tmp_path, "workload: {prompts: p.jsonl}")
    (tmp_path / "p.jsonl").write_text("{\n")
    new_run = partial(create_run, resolved, tmp_path / "results", "")
    with pytest.raises(DynoError, match=r"p\.jsonl"), Bench.open(resolved, new_run, progress=Lines(print)):
        pass
    assert not (tmp_path / "results").exists()


def test_a_reference_that_is_known_is_stored_and_not_asked_again(tmp_path: Path) -> None:
    resolved, notes = _resolved(tmp_path), list[str]()
    new_run = partial(create_run, resolved, tmp_path / "results", "")
    with Bench.open(resolved, new_run, progress=Lines(notes.append), reference=KNOWN) as bench:
        assert bench.reference == KNOWN
        stored = json.loads(bench.writer.layout.reference_json.read_text())
    assert stored == {"source": "transformers fp32", "answers": {"p": "a"}}
    assert notes == []


def test_an_interruption_while_the_reference_is_asked_names_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.trial.reference.launch", interrupted)
    resolved = _resolved(tmp_path)
    new_run = partial(create_run, resolved, tmp_path / "results", "")
    with (
        pytest.raises(Interrupted, match=r"everything finished is kept in .*/results/s/"),
        Bench.open(resolved, new_run, progress=Lines(print)),
    ):
        pass


def test_options_that_no_record_may_hold_reach_the_engine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[EngineSpec] = []

    def refused(spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> NoReturn:
        launched.append(spec)
        raise LaunchFailed("not here")

    monkeypatch.setattr("harness.trial.bench.launch", refused)
    resolved = _resolved(tmp_path)
    new_run = partial(create_run, resolved, tmp_path / "results", "")
    with Bench.open(resolved, new_run, progress=Lines(print), reference=KNOWN) as bench:
        candidate = Candidate(block=0, engine="fake", options={"service_ms": 5})
        trial = bench.run(candidate, 3, prefix="deploy", unstored={"role": "arn"})
    assert launched[0].options == {"service_ms": 5, "role": "arn"}
    assert trial.candidate.options == {"service_ms": 5}
    assert (trial.outcome, trial.reason) == ("launch_failed", "not here")
    assert trial.trial_id == f"deploy-{candidate.candidate_id}"


@pytest.mark.parametrize(
    ("container", "given", "order"),
    [("dynamometer-0.1", None, "fifo"), ("0.36.0-lmi20", None, "heap"), ("0.29.0", None, "djl-fifo"),
     ("0.36.0-lmi20", "fifo", "fifo")],
)  # fmt: skip
def test_candidates_are_measured_by_the_rules_of_the_container_that_the_scenario_names(
    container: str, given: QueueOrder | None, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[EngineSpec] = []

    def refused(spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> NoReturn:
        launched.append(spec)
        raise LaunchFailed("not here")

    monkeypatch.setattr("harness.trial.bench.launch", refused)
    named = _resolved(tmp_path, f"recommend: {{container: {container}}}")
    new_run = partial(create_run, named, tmp_path / "results", "")
    with Bench.open(named, new_run, progress=Lines(print), reference=KNOWN, queue_order=given) as bench:
        bench.run(Candidate(block=0, engine="fake"), 1)
    assert [spec.queue_order for spec in launched] == [order]


@pytest.mark.parametrize(
    ("left_s", "timeout_s", "why"),
    [
        (math.inf, 120.0, "never ready"),
        (50.0, 50.0, "never ready; that was all that was left of search.max_minutes"),
        (-3.0, MIN_READY_S, "never ready; that was all that was left of search.max_minutes"),
    ],
)
def test_a_launch_ends_with_the_search_s_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_s: float, timeout_s: float, why: str
) -> None:
    given: list[float] = []

    def hangs(spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> NoReturn:
        given.append(ready_timeout_s)
        raise NotReady("never ready")

    monkeypatch.setattr("harness.trial.bench.launch", hangs)
    resolved = _resolved(tmp_path, "ready_timeout_s: 120")
    new_run = partial(create_run, resolved, tmp_path / "results", "")
    with Bench.open(resolved, new_run, progress=Lines(print), reference=KNOWN) as bench:
        assert 29 * 60 < bench.left_s() < 30 * 60
        trial = bench.run(Candidate(block=0, engine="fake"), 1, left_s=left_s)
    assert given == [timeout_s]
    assert (trial.outcome, trial.reason) == ("timed_out", why)


def test_lines_show_what_a_launch_waits_for_once(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[str] = []

    @contextmanager
    def slow() -> Iterator[Any]:
        logger.info("waiting: the model")
        yield "engine"
        logger.info("afterwards")

    with shown(slow(), Lines(lines.append), lambda engine: logger.info("waiting: an answer of %s", engine)):
        pass
    assert lines == ["waiting: the model", "waiting: an answer of engine"]
    assert caplog.messages == ["afterwards"]  # what else listens to the root logger gets no line twice


def test_only_engines_that_read_the_model_need_the_reference(tmp_path: Path) -> None:
    assert not _resolved(tmp_path).scenario.reads_model
    assert _resolved(tmp_path, engines="[fake, t5]").scenario.reads_model
