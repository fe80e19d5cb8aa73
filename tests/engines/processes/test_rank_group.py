"""The ranks of a tensor-parallel group hear the same and die together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from engines.processes.rank_group import EXIT_LOST_RANK, RankGroup
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[3]
FOLLOW = "tests.engines.processes.rank_program"


def test_every_rank_is_told_everything_and_ends_at_the_close(tmp_path: Path) -> None:
    group = RankGroup(FOLLOW, 3, {"RANK_LOG": str(tmp_path), "PYTHONPATH": str(ROOT)})
    pids = list(group.pids)
    for text in ("one", "two"):
        group.send({"text": text})
    group.close()

    assert [(tmp_path / f"{rank}.log").read_text() for rank in (1, 2)] == ["one\ntwo\n"] * 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


PROGRAM = f"""
import sys, time
from engines.processes.rank_group import RankGroup
group = RankGroup({FOLLOW!r}, 3, {{}})
group.send({{"text": "ready"}})
print(*group.pids, flush=True)
sys.stdin.readline()
group.send({{"die": True}})
time.sleep(600)
"""


@pytest.fixture
def worker(tmp_path: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "RANK_LOG": str(tmp_path), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", PROGRAM]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT)


def ranks_of(worker: subprocess.Popen[str], tmp_path: Path) -> list[psutil.Process]:
    assert worker.stdout is not None
    ranks = [psutil.Process(int(pid)) for pid in worker.stdout.readline().split()]
    eventually(lambda: all((tmp_path / f"{rank}.log").exists() for rank in (1, 2)))
    return ranks


def test_a_rank_that_dies_takes_the_worker_and_the_other_ranks_along(
    worker: subprocess.Popen[str], tmp_path: Path
) -> None:
    with worker:
        ranks = ranks_of(worker, tmp_path)
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
        assert worker.wait(60) == EXIT_LOST_RANK
        _, alive = psutil.wait_procs(ranks, timeout=30)
        assert not alive


def test_a_killed_worker_takes_its_ranks_along(worker: subprocess.Popen[str], tmp_path: Path) -> None:
    with worker:
        ranks = ranks_of(worker, tmp_path)
        worker.send_signal(signal.SIGKILL)
        worker.wait(30)
        _, alive = psutil.wait_procs(ranks, timeout=30)
        assert not alive
