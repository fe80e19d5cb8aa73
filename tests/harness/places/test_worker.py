"""A trial at a place, in real processes: it comes back whole, and nothing of it outlives its worker or daemon."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness.measure.machine.machine_class import TEST_PLACE, this_machine
from harness.measure.metrics import metric_of
from harness.places.lease import physical_cores
from harness.places.machine_lock import machine_lock
from harness.places.proof import proof
from harness.places.requests import Described, Joined, Measure, Question
from harness.records import Candidate
from harness.scenario.load import load_scenario
from harness.scenario.resolve import ResolvedScenario, resolve
from harness.store.archive import unpack
from harness.store.codec import from_json, to_json
from harness.store.layout import RunLayout
from harness.trial.reference import Reference
from tests.harness.places.contract import some_terms
from tests.harness.places.test_machine_lock import somebody_waits_for
from tests.waiting import LIMIT_S, eventually

pytestmark = pytest.mark.heavy

WORKER = """
import os, sys
os.environ["OMP_NUM_THREADS"] = "1"  # as Ray does for a task
from pathlib import Path
from harness.places.worker import ask_here
reply, refused = ask_here(sys.argv[1], Path(sys.argv[2]).read_text(), part=sys.argv[4])
Path(sys.argv[3]).write_bytes(reply or refused.encode())
"""
DAEMON = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)"


def _resolved(folder: Path, seconds: float) -> ResolvedScenario:
    path = folder / "s.yaml"
    path.write_text(
        f"name: s\nworkload: {{load: {{kind: closed, users: 1}}, requests: 100000, max_duration_s: {seconds}}}\n"
        "quality: {prompts: 2}\nspace: [{engine: fake, options: {service_ms: 20}}]\n"
    )
    return resolve(load_scenario(path), path)


def _measure(resolved: ResolvedScenario) -> Measure:
    return Measure(
        token="fence",
        question=Question.of(resolved),
        reference=Reference(answers={}, source="none"),
        number=7,
        candidate=Candidate(block=0, engine="fake", options={"service_ms": 20}),
        left_s=60.0,
    )


@contextmanager
def _place(
    folder: Path, verb: str, request: object, name: str = "", part: str = ""
) -> Iterator[tuple[psutil.Process, Path, str]]:
    """A daemon above a worker that is asked; the file of the answer, and the name of the place."""
    asked, reply, name = folder / f"{verb}.asked", folder / f"{verb}.reply", name or f"place-{secrets.token_hex(4)}"
    asked.write_text(json.dumps(to_json(request)))
    argv = [sys.executable, "-c", DAEMON, "-c", WORKER, verb, str(asked), str(reply), part]
    env = {**os.environ, TEST_PLACE: name, "OMP_NUM_THREADS": "3", "TMPDIR": str(folder)}
    with subprocess.Popen(argv, env=env, start_new_session=True) as daemon:
        try:
            yield psutil.Process(daemon.pid), reply, name
        finally:
            if daemon.poll() is None:
                for each in (*psutil.Process(daemon.pid).children(recursive=True), daemon):
                    each.kill()


def _answer(folder: Path, verb: str, request: object, name: str = "", part: str = "") -> tuple[bytes, str]:
    with _place(folder, verb, request, name, part) as (daemon, reply, name):
        assert daemon.wait(LIMIT_S) == 0
        return reply.read_bytes(), name


def test_a_trial_comes_back_whole_from_the_machine_that_it_states(tmp_path: Path) -> None:
    measure = _measure(_resolved(tmp_path, 0.5))
    archive, name = _answer(tmp_path, "measure", measure)
    arrived = unpack(archive, "fence")
    assert (arrived.trial.outcome, arrived.trial.number) == ("ok", 7)
    assert (arrived.trial.machine, arrived.trial.machine_class) == (name, this_machine().machine_class)
    assert arrived.trial.notes[-1] == f"{TEST_PLACE} named its machine, which stood for several places"
    layout, trial_id = RunLayout(Path()), arrived.trial.trial_id
    expected = {layout.requests(trial_id), layout.telemetry(trial_id), layout.outputs(trial_id)}
    assert expected <= set(map(Path, arrived.files))
    properties = arrived.files[f"logs/{trial_id}/serving.properties"]
    written = {"serving.properties": base64.b64encode(properties).decode()}
    archive, _ = _answer(tmp_path, "measure", replace(measure, written=written, started="serving.properties"))
    again = unpack(archive, "fence").trial
    assert (again.outcome, again.trial_id) == ("ok", f"verify-{measure.candidate.candidate_id}")


def test_a_trial_at_a_place_races_the_requests_that_are_sent_with_it(tmp_path: Path) -> None:
    measure = _measure(_resolved(tmp_path, 8.0))
    first = unpack(_answer(tmp_path, "measure", measure)[0], "fence")
    requests = RunLayout(Path()).requests(first.trial.trial_id).as_posix()
    p50 = metric_of(first.trial, "latency_p50_ms")
    assert p50 is not None
    terms = replace(some_terms(), against=first.trial.trial_id, against_value=p50.value, checks=(80, 120))
    slow = replace(measure.candidate, options={"service_ms": 60})
    raced = base64.b64encode(first.files[requests]).decode()
    order = replace(measure, number=8, candidate=slow, terms=terms, raced=raced)
    arrived = unpack(_answer(tmp_path, "measure", order)[0], "fence")
    if arrived.trial.race is None:  # a machine whose other processes take CPU ends no trial
        assert any("though it had lost" in note for note in arrived.trial.notes), arrived.trial.notes
    else:
        assert (arrived.trial.outcome, arrived.trial.race.against) == ("ended_early", first.trial.trial_id)
    assert f"raced against {first.trial.trial_id}, which this machine measured too" in arrived.trial.notes
    assert requests not in arrived.files, "the other trial's file does not come back"


def test_a_place_describes_itself_and_proves_what_it_would_answer(tmp_path: Path) -> None:
    answer, name = _answer(tmp_path, "describe", None)
    described = from_json(Described, json.loads(answer))
    assert (described.machine.machine_id, described.holder) == (name, "")
    resolved = _resolved(tmp_path, 0.5)
    answer, _ = _answer(tmp_path, "join", Question.of(resolved))
    joined = from_json(Joined, json.loads(answer))
    assert joined.proof == proof(resolved)
    assert joined.engines["fake"] == "available"


def test_a_part_of_a_machine_measures_on_its_cores_alone(tmp_path: Path) -> None:
    cores = physical_cores(os.sched_getaffinity(0))
    part, name = f"1/{len(cores)}", f"place-{secrets.token_hex(4)}"
    measure = _measure(_resolved(tmp_path, 3))
    answer, _ = _answer(tmp_path, "describe", None, name, part)
    machine = from_json(Described, json.loads(answer)).machine
    assert (machine.machine_id, machine.facts["cores_usable"]) == (f"{name}.1of{len(cores)}", len(cores[0]))
    with _place(tmp_path, "measure", measure, name, part) as (daemon, reply, _):
        below = eventually(lambda: _serving(daemon), "an engine that serves")
        begun = next(index for index, each in enumerate(below) if "harness.places.at_place" in _command(each))
        assert {frozenset(each.cpu_affinity()) for each in below[begun:] if each.is_running()} == {frozenset(cores[0])}
        assert daemon.wait(LIMIT_S) == 0
        trial = unpack(reply.read_bytes(), "fence").trial
    assert (trial.outcome, trial.machine) == ("ok", machine.machine_id)
    assert trial.machine_class == machine.machine_class != this_machine().machine_class
    answer, _ = _answer(tmp_path, "describe", None, name, f"1/{len(cores) + 1}")
    assert answer.decode().endswith(f"cannot be split into {len(cores) + 1} equal parts; give another --split, or none")


def test_where_another_cluster_measures_the_machine_is_busy_and_a_trial_waits_for_its_end(tmp_path: Path) -> None:
    name, measure = f"place-{secrets.token_hex(4)}", _measure(_resolved(tmp_path, 0.5))
    with ExitStack() as other:
        other.enter_context(machine_lock(name, folder=tmp_path))
        with _place(tmp_path, "measure", measure, name) as (daemon, reply, _):
            answer, _ = _answer(tmp_path, "describe", None, name)
            assert from_json(Described, json.loads(answer)).holder == str(os.getpid())
            assert not _serving(daemon)
            other.close()
            assert daemon.wait(LIMIT_S) == 0
            assert unpack(reply.read_bytes(), "fence").trial.outcome == "ok"


def test_a_part_of_a_machine_waits_for_a_part_that_another_search_measures_on(tmp_path: Path) -> None:
    count = len(physical_cores(os.sched_getaffinity(0)))
    name, measure = f"place-{secrets.token_hex(4)}", replace(_measure(_resolved(tmp_path, 0.5)), search="one")
    for search, waits in (("one", count == 1), ("two", True)):
        with ExitStack() as other:
            other.enter_context(machine_lock(f"{name}.1of{count}", search, tmp_path))
            with _place(tmp_path, "measure", measure, name, f"{count}/{count}") as (daemon, reply, _):
                if waits:
                    eventually(lambda: somebody_waits_for(name, tmp_path), "a trial at the gate")
                    assert not _serving(daemon)
                    other.close()
                assert daemon.wait(LIMIT_S) == 0
                assert unpack(reply.read_bytes(), "fence").trial.outcome == "ok"


def test_a_file_that_is_not_at_the_place_is_one_sentence(tmp_path: Path) -> None:
    resolved = _resolved(tmp_path, 0.5)
    question = Question.of(resolved)
    there = {**question.scenario["resolved"], "prompts_path": "/nowhere/prompts.jsonl"}
    question = Question(scenario={**question.scenario, "resolved": there}, bundled=question.bundled)
    answer, _ = _answer(tmp_path, "join", question)
    assert answer.decode() == "[Errno 2] No such file or directory: '/nowhere/prompts.jsonl'"


@pytest.mark.parametrize("killed", ["worker", "daemon"])
def test_no_engine_runs_five_seconds_after_its_worker_or_daemon_was_killed(tmp_path: Path, killed: str) -> None:
    with _place(tmp_path, "measure", _measure(_resolved(tmp_path, 30))) as (daemon, reply, _):
        below = eventually(lambda: _serving(daemon), "an engine that serves")
        victim = daemon if killed == "daemon" else daemon.children()[0]
        at_place = next(each for each in below if "harness.places.at_place" in _command(each))
        assert at_place.environ()["OMP_NUM_THREADS"] == "3", "the daemon's, not the worker's"
        below = [each for each in below if each.pid not in (victim.pid, daemon.pid)]
        victim.kill()
        _, alive = psutil.wait_procs(below, timeout=5)
        assert not alive
        assert not reply.exists()


def test_a_process_of_a_place_is_tied_to_its_worker_before_it_imports_what_it_answers_by() -> None:
    """Imports take ten seconds on a crowded machine, and a worker that is killed meanwhile would leave it running."""
    code = "import sys, harness.places.at_place; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    ours = {name for name in done.stdout.split() if name.startswith(("harness.", "engines."))}
    assert ours == {"harness.places", "harness.places.at_place", "engines.processes", "engines.processes.supervisor"}
    assert "numpy" not in done.stdout.split()


def _serving(daemon: psutil.Process) -> list[psutil.Process]:
    """All processes below the daemon once load is sent to an engine, else none."""
    below = daemon.children(recursive=True)
    return below if any("harness.load" in " ".join(_command(each)) for each in below) else []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
