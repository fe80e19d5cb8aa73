"""kill -9 at random moments of a search on two real nodes: of a node, its daemon, a worker, and the search itself.

A search of short trials goes on while something is killed every few seconds, and is begun again by the same command
where the search itself was killed; one with few kills before it has fewer trials. At each kill the trials under way are
noted, and when the last process of each, its engine's included, is gone; at the end its run folder is checked.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

from tests.harness.places.real_clusters import RealCluster, command, kill, real_cluster

KINDS = ("node", "daemon", "worker", "coordinator")
NODES = ("alpha", "beta")
SOON_S = 5.0
"""Until no engine runs whose worker or daemon is gone."""
LATER_S = 60.0
"""Until no engine runs whose search is gone."""
POLL_S = 0.05
BETWEEN_S = (1.0, 30.0)
BATCH_SIZES, SERVICES = 6, (2, 4)
"""A search has six candidates for each of so many service times, fewer for fewer kills."""
SCENARIO = """
name: killed
workload: {load: {kind: closed, users: 1}, requests: 100000, max_duration_s: 1}
quality: {prompts: 1}
space: [{engine: fake, batch_size: %s, options: {service_ms: %s}}]
objectives: [{metric: latency_p50_ms, goal: minimize}]
search: {sampler: grid, trials: %s, max_minutes: 600, confirm: {finalists: 0}}
"""


@dataclass(slots=True, kw_only=True)
class Kill:
    """One kill: how many trials were under way on what it hit, the seconds until all their processes were gone, and the
    commands of those that ran for too long."""

    kind: str
    under_way: int
    gone_s: float
    late: tuple[str, ...] = ()


@dataclass(slots=True)
class Killed:
    """All kills so far, the trials that were recorded as lost, and what was found wrong."""

    kills: list[Kill] = field(default_factory=list)
    lost: int = 0
    searches: int = 0
    wrong: list[str] = field(default_factory=list)


def killed(kind: str, times: int, minutes: float = math.inf, seed: int = 1) -> Killed:
    """What `times` kills of each kind did to searches on a cluster 'ray' or 'dask'; after `minutes` none is added."""
    rng, found = random.Random(seed), Killed()
    left = list(KINDS * times)
    rng.shuffle(left)
    until_s = time.monotonic() + 60 * minutes
    with real_cluster(kind, NODES) as cluster:
        while left and time.monotonic() < until_s:
            folder = Path(tempfile.mkdtemp(prefix="kills"))
            wrong = _one_search(cluster, left, rng, found, folder, until_s)
            found.searches += 1
            found.wrong += wrong
            print(f"{len(found.kills)} kills, {found.searches} searches, wrong: {wrong or 'nothing'}", flush=True)
            if wrong:
                print(f"its run and its notes are kept in {folder}", flush=True)
            else:
                shutil.rmtree(folder)
    return found


def _one_search(
    cluster: RealCluster, left: list[str], rng: random.Random, found: Killed, folder: Path, until_s: float
) -> list[str]:
    """Kill what is next in `left` until that is empty or the search ends; then what is wrong in its run folder."""
    services = [10 * each for each in range(1, min(max(SERVICES[0], len(left) // 2), SERVICES[1]) + 1)]
    candidates = BATCH_SIZES * len(services)
    (folder / "s.yaml").write_text(SCENARIO % (list(range(1, BATCH_SIZES + 1)), services, candidates))
    kills, wrong = list[Kill](), list[str]()
    with (folder / "notes").open("wb") as notes:
        search = _begun(cluster, folder, notes.fileno())
        try:
            while left and time.monotonic() < until_s:
                with suppress(subprocess.TimeoutExpired):
                    search.wait(rng.uniform(*BETWEEN_S))
                    break
                if left[0] == "coordinator":
                    kills.append(_watched("coordinator", cluster.trials(), search.kill, LATER_S))
                    search.wait()
                    search = _begun(cluster, folder, notes.fileno())
                else:
                    node = rng.choice(NODES)
                    if left[0] == "worker" and not cluster.workers(node):
                        continue  # none has a trial at this moment
                    kills.append(_struck(cluster, left[0], node))
                left.pop(0)
            search.wait(3600)
        finally:
            search.kill()
            search.wait()
    if search.returncode != 0:
        wrong.append(f"the search ended with status {search.returncode}: {_end_of(folder / 'notes')}")
    lost, wrong_there = checked(folder, kills, candidates)
    found.lost += lost
    found.kills += kills
    return [*wrong, *wrong_there, *(why for each in kills for why in _late(each))]


def _begun(cluster: RealCluster, folder: Path, notes: int) -> subprocess.Popen[bytes]:
    dyno = [sys.executable, "-m", "harness", "tune", str(folder / "s.yaml"), "--no-verify", "--no-prune"]
    argv = [*dyno, "--places", cluster.address, "--results", str(folder / "runs")]
    return subprocess.Popen(argv, env=cluster.env, stdout=subprocess.DEVNULL, stderr=notes)


def _struck(cluster: RealCluster, kind: str, name: str) -> Kill:
    """A kill on a node, which is whole again afterwards."""
    strikes = {
        "worker": lambda: _each(cluster.workers(name)),
        "daemon": lambda: _each(cluster.daemons(name)),
        "node": lambda: cluster.kill_node(name),
    }
    done = _watched(kind, cluster.trials(name), strikes[kind], SOON_S)
    if kind != "worker":
        cluster.kill_node(name)
        cluster.start_node(name)
    return done


def _each(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        kill(process)


def _watched(kind: str, trials: Sequence[psutil.Process], strike: Callable[[], None], limit_s: float) -> Kill:
    """Strike, and watch these trials with all that they started until they are gone, or twice the limit."""
    watched, late = set(trials) | _below(trials), dict[psutil.Process, str]()
    strike()
    begun_s = time.monotonic()
    while (running := [each for each in watched if _runs(each)]) and time.monotonic() - begun_s < 2 * limit_s:
        watched |= _below(running)
        if time.monotonic() - begun_s > limit_s:
            late |= {each: " ".join(command(each))[-80:] for each in running if each not in late}
        time.sleep(POLL_S)
    gone_s = time.monotonic() - begun_s
    return Kill(kind=kind, under_way=len(trials), gone_s=gone_s, late=tuple(late.values()))


def _below(processes: Sequence[psutil.Process]) -> set[psutil.Process]:
    found: set[psutil.Process] = set()
    for process in processes:
        with suppress(psutil.Error):
            found |= set(process.children(recursive=True))
    return found


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _late(one: Kill) -> list[str]:
    why = f"processes of a trial ran on for {one.gone_s:.1f} s after its {one.kind} was killed: {'; '.join(one.late)}"
    return [why] if one.late else []


def checked(results: Path, kills: Sequence[Kill], candidates: int) -> tuple[int, list[str]]:
    """How many trials a search's run records as lost, and what is wrong in its folder."""
    wrong = []
    roots = [path.parent for path in results.glob("runs/*/*/trials.jsonl")]
    if len(roots) != 1:
        return 0, [f"expected one run that each command continues, got {len(roots)}"]
    trials = [json.loads(line) for line in (roots[0] / "trials.jsonl").read_text().splitlines()]
    for what in ("number", "trial_id"):
        if twice := [value for value, count in Counter(each[what] for each in trials).items() if count > 1]:
            wrong.append(f"{what} {twice} stands in several lines")
    measured = [each for each in trials if each["outcome"] == "ok"]
    if len(trials_of := {json.dumps(each["candidate"], sort_keys=True) for each in measured}) != len(measured):
        wrong.append(f"{len(measured) - len(trials_of)} candidates are counted twice")
    lost = [each for each in trials if each["outcome"] == "machine_lost" or "was lost twice" in each["reason"]]
    could = sum(each.under_way for each in kills if each.kind != "coordinator")
    if len(lost) > could:
        wrong.append(f"{len(lost)} trials are lost, {could} were under way: {[each['reason'] for each in lost]}")
    if others := [each for each in trials if each not in measured and each not in lost]:
        wrong.append(f"unexpected: {[(each['outcome'], each['reason']) for each in others]}")
    settled = {json.dumps(each["candidate"], sort_keys=True) for each in trials if each["outcome"] != "machine_lost"}
    if len(settled) != candidates:
        wrong.append(f"{len(settled)} of {candidates} candidates were measured")
    for each in measured:
        files = [
            roots[0] / "requests" / f"{each['trial_id']}.parquet",
            roots[0] / "outputs" / f"{each['trial_id']}.jsonl",
        ]
        wrong += [f"{file.name} is not there" for file in files if not file.exists()]
    names = {each["trial_id"] for each in trials}
    stray = [path.stem for path in (roots[0] / "requests").glob("t*.parquet") if path.stem not in names]
    wrong += [f"{name} has files and no line" for name in stray]
    return len(lost), wrong


def kills_table(kind: str, found: Killed) -> str:
    """What the kills did, as Markdown."""
    trials = " to ".join(str(BATCH_SIZES * services) for services in SERVICES)
    lines = [
        f"# kill -9 at random moments, on two nodes of {kind.capitalize()}",
        "",
        f"Searches of {trials} trials of the fake engine: {found.searches}. Lost trials were measured again.",
        "Trials under way: those of the search, and those by which the machines are compared.",
        "Gone: from the kill until the last process of the trials under way ended, their engines included.",
        "Checked in each run folder: no number, trial or candidate twice, every line has its files, no files without",
        "a line, no more trials lost than were under way, every candidate measured, by the same command throughout.",
        "Written by `make bench-machines BENCH='--kills N'`.",
        "",
        "| killed | times | trials under way | gone: median (s) | longest (s) | at most (s) |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in KINDS:
        mine = [each for each in found.kills if each.kind == name]
        gone = [each.gone_s for each in mine if each.under_way]
        shown = (f"{median(gone):.1f}", f"{max(gone):.1f}") if gone else ("", "")
        limit = LATER_S if name == "coordinator" else SOON_S
        cells = (name, len(mine), sum(each.under_way for each in mine), *shown, f"{limit:g}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", f"Trials recorded as lost: {found.lost}. Wrong: {'; '.join(found.wrong) or 'nothing'}."]
    return "\n".join(lines) + "\n"


def _end_of(path: Path) -> str:
    return path.read_text(errors="replace")[-500:]
