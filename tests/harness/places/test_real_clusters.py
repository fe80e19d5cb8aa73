"""A search on two nodes of a real cluster, Ray's or Dask's, which stand for two machines; one worker is killed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from engines.processes.server_process import free_port
from harness.measure.machine.machine_class import TEST_PLACE
from harness.places.open_cluster import open_cluster
from harness.places.requests import Question
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.store.codec import to_json
from tests.harness.places.contract import a_measure, keeps_the_contract
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

SCENARIO = """
name: two-places
workload: {load: {kind: closed, users: 1}, requests: 100000, max_duration_s: 1}
quality: {prompts: 2}
space: [{engine: fake, options: {service_ms: [5, 10, 15, 20]}}]
objectives: [{metric: latency_p50_ms, goal: minimize}]
search: {sampler: grid, trials: 4, confirm: {finalists: 0}}
"""


@dataclass(frozen=True, slots=True)
class RealCluster:
    """Two nodes called alpha and beta: their address, and the environment that a client needs and they have."""

    address: str
    env: dict[str, str]
    variable: str

    def workers(self) -> list[psutil.Process]:
        """Its workers that watch a trial."""
        found = []
        for each in psutil.process_iter(["cmdline", "ppid", "environ"]):
            command, environment = each.info["cmdline"] or [], each.info["environ"] or {}
            is_ours = environment.get(self.variable) == self.env[self.variable]
            if is_ours and {"harness.places.at_place", "measure"} <= set(command):
                found.append(psutil.Process(each.info["ppid"]))
        return found


@pytest.fixture(params=["ray", "dask"], scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[RealCluster]:
    folder = tempfile.mkdtemp(prefix="places")  # Ray's sockets are below it, and their names may have 107 bytes
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield (_ray if request.param == "ray" else _dask)(folder, processes)
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                for each in (*psutil.Process(process.pid).children(recursive=True), process):
                    each.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _ray(folder: str, processes: list[subprocess.Popen[bytes]]) -> RealCluster:
    """With a token: Ray listens on every interface of this machine."""
    pytest.importorskip("ray")
    token, port = secrets.token_hex(16), free_port()
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "DYNO_CACHE": f"{folder}/cache"}
    ports = ["--min-worker-port=0", "--max-worker-port=0"]
    head = ["--head", f"--port={port}", f"--ray-client-server-port={free_port()}", "--include-dashboard=false"]
    nodes = {"alpha": [*head, f"--temp-dir={folder}"], "beta": [f"--address=127.0.0.1:{port}"]}
    for name, options in nodes.items():
        argv = ["ray", "start", *options, *ports, "--num-cpus=1", '--resources={"machine": 1}', "--disable-usage-stats"]
        processes.append(node := _process([*argv, "--block"], {**env, TEST_PLACE: name}))
        eventually(partial(_has_raylet, node), f"Ray's node {name}")
    return RealCluster(f"127.0.0.1:{port}", env, "RAY_AUTH_TOKEN")


def _has_raylet(node: subprocess.Popen[bytes]) -> bool:
    assert node.poll() is None, "ray start ended"
    return any("raylet" in each.name() for each in psutil.Process(node.pid).children(recursive=True))


def _dask(folder: str, processes: list[subprocess.Popen[bytes]]) -> RealCluster:
    pytest.importorskip("distributed")
    port = free_port()
    env = {**os.environ, "DYNO_CACHE": f"{folder}/cache"}
    own = ["--host=127.0.0.1", "--no-dashboard"]
    processes.append(_process(["dask", "scheduler", f"--port={port}", *own], env))
    for name in ("alpha", "beta"):
        argv = ["dask", "worker", f"127.0.0.1:{port}", "--resources=machine=1", "--nthreads=2", *own]
        processes.append(_process([*argv, f"--local-directory={folder}"], {**env, TEST_PLACE: name}))
    found = RealCluster(f"dask://127.0.0.1:{port}", env, "DYNO_CACHE")
    eventually(lambda: _answers(port), "Dask's scheduler")
    with open_cluster(found.address) as there:
        eventually(lambda: len(there.nodes()) == 2, "Dask's workers")
    return found


def _process(argv: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name(argv[0])
    return subprocess.Popen([str(program), *argv[1:]], env=env, cwd="/", stdout=subprocess.DEVNULL)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_real_cluster_keeps_the_contract(
    cluster: RealCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        if name in cluster.env:
            monkeypatch.setenv(name, cluster.env[name])
    (tmp_path / "s.yaml").write_text(SCENARIO.replace("max_duration_s: 1", "max_duration_s: 600"))
    resolved = resolve(load_scenario(tmp_path / "s.yaml"), tmp_path / "s.yaml")
    gone = Question.of(replace(resolved, prompts_path=tmp_path / "gone.jsonl"))
    with open_cluster(cluster.address) as there:
        keeps_the_contract(
            there,
            refused=("join", json.dumps(to_json(gone))),
            lost=("join", "{}"),
            long=("measure", json.dumps(to_json(a_measure(resolved)))),
        )
    eventually(lambda: not cluster.workers(), "the end of the interrupted trial")


def test_a_search_on_two_machines_survives_a_killed_worker(cluster: RealCluster, tmp_path: Path) -> None:
    address, env = cluster.address, cluster.env
    (tmp_path / "s.yaml").write_text(SCENARIO)
    dyno = [sys.executable, "-m", "harness"]
    ask = [*dyno, "machines", "--places", address, "--json"]
    machines = json.loads(subprocess.run(ask, env=env, stdout=subprocess.PIPE, check=True).stdout)["machines"]
    assert {(each["id"], each["busy_with_process"]) for each in machines} == {("alpha", None), ("beta", None)}
    tune = [
        *dyno,
        "tune",
        str(tmp_path / "s.yaml"),
        "--places",
        address,
        "--results",
        str(tmp_path / "results"),
        "--no-verify",
    ]
    with subprocess.Popen(tune, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as search:
        eventually(lambda: [*tmp_path.glob("results/two-places/*/trials.jsonl")], "the first trial's end", limit_s=300)
        eventually(cluster.workers, "a trial under way")[0].kill()
        _, notes = search.communicate()
    assert search.returncode == 0, notes
    (run_json,) = tmp_path.glob("results/two-places/*/run.json")
    trials = [json.loads(line) for line in (run_json.parent / "trials.jsonl").read_text().splitlines()]
    assert Counter(trial["outcome"] for trial in trials) == {"ok": 4, "machine_lost": 1}
    assert {trial["machine"] for trial in trials} == {"alpha", "beta"}
    calibrated = json.loads(run_json.read_text())["machines"]
    assert {each["machine_id"]: each["ratio"] is not None for each in calibrated} == {"alpha": True, "beta": True}
    launches = [json.loads(line) for line in (run_json.parent / "calibration.jsonl").read_text().splitlines()]
    assert min(Counter(each["trial"]["machine"] for each in launches).values()) >= 3
    measured = [trial for trial in trials if trial["outcome"] == "ok"]
    assert len({json.dumps(trial["candidate"]) for trial in measured}) == 4
    for trial in measured:
        assert (run_json.parent / "requests" / f"{trial['trial_id']}.parquet").exists()
