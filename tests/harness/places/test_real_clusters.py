"""A search on two nodes of a real cluster, Ray's or Dask's, which stand for two machines; one worker is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.places.real_clusters import RealCluster, real_cluster
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[3]
LEFT_S = 60.0
"""Until nothing of a killed search runs any more, as scenarios/README.md states."""
SCENARIO = """
name: two-places
workload: {load: {kind: closed, users: 1}, requests: 100000, max_duration_s: 2}
quality: {prompts: 2}
space: [{engine: fake, options: {service_ms: [300, 350, 400, 450]}}]
objectives: [{metric: latency_p50_ms, goal: minimize}]
search: {sampler: grid, trials: 4, confirm: {finalists: 0}}
"""


@pytest.fixture(params=["ray", "dask"], scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[RealCluster]:
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[request.param])
    with real_cluster(request.param, ("alpha", "beta")) as found:
        yield found


def test_a_real_cluster_keeps_the_contract(cluster: RealCluster, tmp_path: Path) -> None:
    """In another process: Ray's library reads the token once."""
    (tmp_path / "s.yaml").write_text(SCENARIO.replace("max_duration_s: 2", "max_duration_s: 600"))
    contract = [sys.executable, "-m", "tests.harness.places.contract", cluster.address, str(tmp_path / "s.yaml")]
    done = subprocess.run(contract, env=cluster.env, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    eventually(lambda: not cluster.workers(), "the end of the interrupted trial")


def test_a_killed_search_leaves_no_trial_under_way(cluster: RealCluster, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SCENARIO.replace("max_duration_s: 2", "max_duration_s: 600"))
    tune = [sys.executable, "-m", "harness", "tune", str(tmp_path / "s.yaml"), "--places", cluster.address]
    argv = [*tune, "--results", str(tmp_path / "results")]
    with subprocess.Popen(argv, env=cluster.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as search:
        eventually(cluster.workers, "a trial under way", limit_s=300)
        search.kill()
    eventually(lambda: not cluster.workers(), "the end of the trials of a killed search", limit_s=LEFT_S)


def test_a_file_that_no_node_has_is_brought_to_both_and_then_nothing_is_missing(
    cluster: RealCluster, tmp_path: Path
) -> None:
    """/proc/self/cwd is another folder for each process: the prompts are there for the coordinator alone."""
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n' * 20)
    there = "{load: {kind: closed, users: 1}, prompts: /proc/self/cwd/p.jsonl,"
    (tmp_path / "s.yaml").write_text(SCENARIO.replace("{load: {kind: closed, users: 1},", there))
    asked = [sys.executable, "-P", "-m", "harness", "machines", "--places", cluster.address]
    asked += ["--prepare", str(tmp_path / "s.yaml"), "--json"]
    env = {**cluster.env, "PYTHONPATH": str(ROOT)}
    for did in (["brought 1 file, 320 bytes"], []):
        done = subprocess.run(asked, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert [each["did"] for each in json.loads(done.stdout)["prepared"]] == [did] * 2
        assert "machine alpha: ready" in done.stderr


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
