"""A search of 48 trials that sleep for 20 s, on several nodes of a real Dask which stand for machines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean

import psutil

from engines.processes.server_process import free_port
from harness.measure.machine.machine_class import TEST_PLACE
from harness.records import Trial
from harness.store.reader import read_calibrations, read_run

SCENARIO = """
name: sleeping-trials
workload: {load: {kind: constant, rate_rps: 0.5}, requests: 100000, max_duration_s: 20}
quality: {prompts: 1}
space: [{engine: fake, batch_size: [1, 2, 3, 4, 5, 6], options: {service_ms: [1, 2, 3, 4, 5, 6, 7, 8]}}]
objectives: [{metric: latency_p50_ms, goal: minimize}]
search: {sampler: grid, trials: 48, max_minutes: 600, confirm: {finalists: 0}}
"""


def measured(nodes: int) -> dict[str, object]:
    """Wall-clock seconds of the search phase on so many nodes, from the first trial's begin to the last one's end."""
    folder = Path(tempfile.mkdtemp(prefix="nodes"))
    port, dask = free_port(), Path(sys.executable).with_name("dask")
    env = {**os.environ, "DYNO_CACHE": str(folder / "cache")}
    own = ["--host=127.0.0.1", "--no-dashboard"]
    commands = [([str(dask), "scheduler", f"--port={port}", *own], env)]
    for number in range(nodes):
        worker = ["worker", f"127.0.0.1:{port}", "--resources=machine=1", "--nthreads=2", f"--local-directory={folder}"]
        commands.append(([str(dask), *worker, *own], {**env, TEST_PLACE: f"node{number}"}))
    running = [subprocess.Popen(argv, env=each, cwd="/", stderr=subprocess.DEVNULL) for argv, each in commands]
    try:
        time.sleep(10 + 2 * nodes)
        return _searched(folder, f"dask://127.0.0.1:{port}", env, nodes)
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _searched(folder: Path, address: str, env: dict[str, str], nodes: int) -> dict[str, object]:
    (folder / "s.yaml").write_text(SCENARIO)
    dyno = [sys.executable, "-m", "harness", "tune", str(folder / "s.yaml"), "--no-verify", "--no-prune"]
    before = psutil.cpu_times()
    subprocess.run(
        [*dyno, "--places", address, "--results", str(folder / "runs")], env=env, check=True, stdout=subprocess.DEVNULL
    )
    after = psutil.cpu_times()
    (root,) = folder.glob("runs/*/*")
    run = read_run(root)
    begun, ended = zip(*map(_times, run.trials), strict=True)
    calibrations = [each.trial for each in read_calibrations(root)]
    between = [each for each in calibrations if min(begun) < _times(each)[0] < max(ended)]
    search_s = max(ended) - min(begun)
    return {
        "nodes": nodes,
        "trials": len(run.trials),
        "trial_s": round(fmean(each.duration_s for each in run.trials), 2),
        "cpu_s_per_launch": round(
            (after.user + after.system - before.user - before.system) / (len(run.trials) + len(calibrations)), 2
        ),
        "calibration_launches": len(calibrations),
        "search_s": round(search_s, 1),
        "search_without_calibration_s": round(search_s - sum(each.duration_s for each in between) / nodes, 1),
    }


def _times(trial: Trial) -> tuple[float, float]:
    """When it began and ended, to a second."""
    begun = datetime.fromisoformat(trial.started_utc).timestamp()
    return begun, begun + trial.duration_s


def speed_table(found: Sequence[dict[str, object]]) -> str:
    """The rows as a Markdown table; the first is of one node."""
    lines = [
        "# 48 trials that sleep for 20 s, on nodes of Dask that stand for machines",
        "",
        "The search phase lasts from the first trial's begin to the last one's end. With calibration: as it was;",
        "without: less the mean time that a node calibrated in it.",
        "Written by `make bench-machines BENCH='--nodes 2 4 8'`.",
        "",
        "| nodes | search phase (s) | speed-up with calibration | without | calibration launches | trial (s) "
        "| CPU per launch (s) |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    whole, without = (float(str(found[0][name])) for name in ("search_s", "search_without_calibration_s"))
    for one in found:
        speeds = (
            f"{whole / float(str(one['search_s'])):.2f}",
            f"{without / float(str(one['search_without_calibration_s'])):.2f}",
        )
        rest = (one[name] for name in ("calibration_launches", "trial_s", "cpu_s_per_launch"))
        shown = (one["nodes"], one["search_s"], *speeds, *rest)
        lines.append(f"| {' | '.join(map(str, shown))} |")
    return "\n".join(lines) + "\n"
