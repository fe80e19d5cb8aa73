"""A search on two nodes of a real Ray, which stand for two machines; one worker is killed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from engines.processes.server_process import free_port
from harness.measure.machine.machine_class import TEST_PLACE
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

pytest.importorskip("ray")

RAY = Path(sys.executable).with_name("ray")
NODE = ["--num-cpus=1", '--resources={"machine": 1}', "--disable-usage-stats", "--block"]
SCENARIO = """
name: two-places
workload: {load: {kind: closed, users: 1}, requests: 100000, max_duration_s: 2}
quality: {prompts: 2}
space: [{engine: fake, options: {service_ms: [5, 10, 15, 20]}}]
objectives: [{metric: latency_p50_ms, goal: minimize}]
search: {sampler: grid, trials: 4, confirm: {finalists: 0}}
"""


@pytest.fixture
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """The address of two nodes called alpha and beta, and the environment that its token is in: Ray listens on every
    interface of this machine."""
    folder = tempfile.mkdtemp(prefix="ray")  # Ray's sockets are below it, and their names may have 107 bytes
    token, port = secrets.token_hex(16), free_port()
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "DYNO_CACHE": f"{folder}/cache"}
    head = ["--head", f"--port={port}", f"--ray-client-server-port={free_port()}", "--include-dashboard=false"]
    head += [f"--temp-dir={folder}", "--min-worker-port=0", "--max-worker-port=0"]
    nodes = [_node(env, "alpha", head)]
    try:
        eventually(lambda: _is_up(nodes[0]), "Ray's head")
        nodes.append(_node(env, "beta", [f"--address=127.0.0.1:{port}", "--min-worker-port=0", "--max-worker-port=0"]))
        eventually(lambda: _is_up(nodes[1]), "Ray's second node")
        yield f"127.0.0.1:{port}", env
    finally:
        for node in nodes:
            for each in (*psutil.Process(node.pid).children(recursive=True), node):
                each.kill()
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _node(env: dict[str, str], name: str, options: list[str]) -> subprocess.Popen[bytes]:
    argv = [str(RAY), "start", *options, *NODE]
    return subprocess.Popen(argv, env={**env, TEST_PLACE: name}, cwd="/", stdout=subprocess.DEVNULL)


def _is_up(node: subprocess.Popen[bytes]) -> bool:
    assert node.poll() is None, "ray start ended"
    return any("raylet" in each.name() for each in psutil.Process(node.pid).children(recursive=True))


def test_a_search_on_two_machines_survives_a_killed_worker(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, env = cluster
    (tmp_path / "s.yaml").write_text(SCENARIO)
    dyno = [sys.executable, "-m", "harness"]
    ask = [*dyno, "machines", "--places", address, "--json"]
    machines = json.loads(subprocess.run(ask, env=env, stdout=subprocess.PIPE, check=True).stdout)["machines"]
    assert {(each["id"], each["busy_with_process"]) for each in machines} == {("alpha", None), ("beta", None)}
    tune = [*dyno, "tune", str(tmp_path / "s.yaml"), "--places", address, "--results", str(tmp_path / "results")]
    with subprocess.Popen(tune, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as search:
        eventually(lambda: _workers(env["RAY_AUTH_TOKEN"]), "a trial under way")[0].kill()
        _, notes = search.communicate()
    assert search.returncode == 0, notes
    (run_json,) = tmp_path.glob("results/two-places/*/run.json")
    trials = [json.loads(line) for line in (run_json.parent / "trials.jsonl").read_text().splitlines()]
    assert Counter(trial["outcome"] for trial in trials) == {"ok": 4, "machine_lost": 1}
    assert {trial["machine"] for trial in trials} == {"alpha", "beta"}
    measured = [trial for trial in trials if trial["outcome"] == "ok"]
    assert len({json.dumps(trial["candidate"]) for trial in measured}) == 4
    for trial in measured:
        assert (run_json.parent / "requests" / f"{trial['trial_id']}.parquet").exists()


def _workers(token: str) -> list[psutil.Process]:
    """Workers of this Ray that watch a trial."""
    found = []
    for each in psutil.process_iter(["cmdline", "ppid", "environ"]):
        command, environment = each.info["cmdline"] or [], each.info["environ"] or {}
        if {"harness.places.at_place", "measure"} <= set(command) and environment.get("RAY_AUTH_TOKEN") == token:
            found.append(psutil.Process(each.info["ppid"]))
    return found
