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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import psutil
import pytest

from engines.processes.server_process import free_port
from harness.measure.machine.machine_class import TEST_PLACE
from harness.places.open_cluster import open_cluster
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[3]
TRIES = 3
SCENARIO = """
name: two-places
workload: {load: {kind: closed, users: 1}, requests: 100000, max_duration_s: 2}
quality: {prompts: 2}
space: [{engine: fake, options: {service_ms: [300, 350, 400, 450]}}]
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
        _started_node([*argv, "--block"], {**env, TEST_PLACE: name}, Path(folder) / name, processes)
    return RealCluster(f"127.0.0.1:{port}", env, "RAY_AUTH_TOKEN")


def _started_node(argv: list[str], env: dict[str, str], log: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """Until it prints that it runs; begun again where it ends before, since Ray gives a node 30 s, and a busy machine
    needs longer."""
    for _ in range(TRIES):
        with log.open("wb") as printed:
            processes.append(node := _process(argv, env, printed))
        eventually(partial(_runs_or_ended, node, log), f"Ray's node {env[TEST_PLACE]}")
        if node.poll() is None:
            return
    pytest.fail(f"ray start ended {TRIES} times: {log.read_text(errors='replace')}")


def _runs_or_ended(node: subprocess.Popen[bytes], log: Path) -> bool:
    return node.poll() is not None or b"Ray runtime started" in log.read_bytes()


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


def _process(argv: list[str], env: dict[str, str], out: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name(argv[0])
    return subprocess.Popen([str(program), *argv[1:]], env=env, cwd="/", stdout=out or subprocess.DEVNULL)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_real_cluster_keeps_the_contract(cluster: RealCluster, tmp_path: Path) -> None:
    """In another process: Ray's library reads the token once."""
    (tmp_path / "s.yaml").write_text(SCENARIO.replace("max_duration_s: 2", "max_duration_s: 600"))
    contract = [sys.executable, "-m", "tests.harness.places.contract", cluster.address, str(tmp_path / "s.yaml")]
    done = subprocess.run(contract, env=cluster.env, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
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
