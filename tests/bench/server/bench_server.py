"""What our server costs beside the engine it serves, how much it carries, and other servers beside it.

    make bench-server                                   # seven minutes on a quiet machine
    make bench-server BENCH='--against ../older'        # another checkout in turn with this one: ABBA
    make bench-server BENCH='--only costs --seconds 3'

Five parts. stages: CPU of each function that a request passes, in this process. costs: the bundled model, int8,
rolling batch, two workers of one thread, closed loop: CPU of each process by request, and the server's share, which
is what is left of front and workers when the engine alone, asked for the same prompts with as many in flight, is taken
away. idle: where a lone request's time goes at 10 requests/s, one thing more in each row. rate: the largest Poisson
rate whose p99 stays within 25 ms, and what a call costs beyond the in-process one at 10 requests/s. rivals: LitServe,
Multi Model Server and, where it is found, DJL Serving around the same handler that takes no time.

CPU by request holds on a busy machine; rates and latencies do not. Writes run.json and table.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from engines.api import EngineSpec, RunningEngine
from engines.errors import EngineError
from engines.launching import load_engine
from tests.bench.server import loads, rivals
from tests.bench.server.idle import idle
from tests.bench.server.stages import EngineAlone, stages

PARTS = ("stages", "costs", "idle", "rate", "rivals")
USERS = (1, 16)
WORKERS = 2
RIVAL_LOADS = ((1, 8), (8, 8))
"""(batch size, connections)"""
LIMIT_P99_MS = 25.0
LOW_RPS = 10.0
FIRST_RPS = 100.0
STRIDE, STEP = 1.5, 1.08
"""Between two rates at first, and at last."""


@contextmanager
def t5_server(checkout: Path | None) -> Iterator[tuple[RunningEngine, Path]]:
    """The bundled model as the aims name it, by this checkout's server or another's; and a folder for loads."""
    spec = EngineSpec(
        engine="t5", model_dir=loads.MODEL_DIR, dtype="int8", threads=1, workers=WORKERS, rolling_batch="auto",
        job_queue_size=1000, source_root=checkout,
    )  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="bench-server-") as folder,
        load_engine("t5").launch(spec, Path(folder) / "server", rivals.READY_S) as running,
    ):
        yield running, Path(folder)


def costs(checkouts: Sequence[Path | None], seconds: float, alone: EngineAlone) -> list[dict[str, Any]]:
    """One row per launch and number of users."""
    rows = []
    for checkout in turns(checkouts):
        with t5_server(checkout) as (running, folder):
            for users in USERS:
                found = loads.closed(running, folder, users, seconds)
                engine_us = alone.cpu_us(max(1, users // WORKERS), 400)
                rows.append(
                    {"checkout": name_of(checkout), "users": users, **asdict(found), "engine_us": engine_us,
                     "server_us": found.front_us + found.workers_us - engine_us}
                )  # fmt: skip
                print(rows[-1], file=sys.stderr)
    return rows


def idle_rows(seconds: float, alone: EngineAlone) -> list[dict[str, Any]]:
    """One row per thing that answers a lone request at LOW_RPS."""
    with t5_server(None) as (running, folder):
        return idle(running, alone, folder, LOW_RPS, seconds)


def rates(checkouts: Sequence[Path | None], seconds: float, alone: EngineAlone) -> list[dict[str, Any]]:
    """One row per launch: latency at LOW_RPS beyond the in-process call's, and the largest rate that holds."""
    rows = []
    for checkout in turns(checkouts):
        with t5_server(checkout) as (running, folder):
            low = loads.poisson(running, folder, LOW_RPS, 2 * seconds)
            in_process_ms = statistics.median(alone.latencies_ms(100))
            highest = largest_rate(running, folder, seconds)
        rows.append(
            {"checkout": name_of(checkout), "p50_ms": low.p50_ms, "in_process_p50_ms": in_process_ms,
             "added_p50_ms": low.p50_ms - in_process_ms, "largest_rps": highest}
        )  # fmt: skip
        print(rows[-1], file=sys.stderr)
    return rows


def largest_rate(running: RunningEngine, folder: Path, seconds: float) -> float:
    """The largest rate that held, within a factor of STEP; 0 where not even LOW_RPS did."""
    low, high, rate = 0.0, 0.0, FIRST_RPS
    while not low or not high or high > low * STEP:
        found = loads.poisson(running, folder, rate, seconds)
        if not found.failed and found.p99_ms <= LIMIT_P99_MS:
            low = rate
        elif rate <= LOW_RPS:
            return 0.0
        else:
            high = rate
        rate = (low * high) ** 0.5 if low and high else low * STRIDE if low else max(LOW_RPS, high / STRIDE)
    return low


def beside(seconds: float) -> list[dict[str, Any]]:
    """One row per server, batch size and number of connections, or why it is absent."""
    rows: list[dict[str, Any]] = []
    for name in rivals.NAMES:
        for batch, users in RIVAL_LOADS:
            row: dict[str, Any] = {"server": name, "batch": batch, "connections": users}
            try:
                with (
                    tempfile.TemporaryDirectory(prefix="bench-server-") as folder,
                    rivals.launched(name, batch, Path(folder) / "server") as running,
                ):
                    found = loads.closed(running, Path(folder), users, seconds)
                rows.append(row | asdict(found) | {"server_us": found.front_us + found.workers_us})
            except EngineError as error:
                rows.append(row | {"absent": str(error).splitlines()[0]})
            print(rows[-1], file=sys.stderr)
    return rows


def turns(checkouts: Sequence[Path | None]) -> Sequence[Path | None]:
    """Each once where there is one; two in turn as ABBA."""
    return checkouts if len(checkouts) == 1 else [*checkouts, *reversed(checkouts)]


def name_of(checkout: Path | None) -> str:
    return "this" if checkout is None else str(checkout)


def table(run: dict[str, Any]) -> str:
    """Everything measured as Markdown."""
    lines = [
        "# The server beside the engine",
        "",
        f"{run['cpu']}, {run['cores']} cores; load {run['load']} at the start.",
    ]
    if "stages" in run:
        lines += ["", "| stage | CPU, us |", "| --- | --- |"]
        lines += [f"| {name} | {us:.1f} |" for name, us in run["stages"].items()]
    if "costs" in run:
        lines += ["", "CPU by request, us, t5 int8, rolling batch, 2 workers of 1 thread:", ""]
        lines += rows_of(run["costs"], ("checkout", "users", "rate_rps", "p50_ms", "front_us", "workers_us",
                                        "engine_us", "server_us", "client_us"))  # fmt: skip
    if "idle" in run:
        lines += ["", f"A lone request, {LOW_RPS:g} requests/s; CPU by request:", ""]
        lines += rows_of(run["idle"], ("answers", "p50_ms", "front_us", "workers_us", "client_us"))
    if "rate" in run:
        lines += [
            "",
            f"Poisson, p99 within {LIMIT_P99_MS:g} ms; {LOW_RPS:g} requests/s beside the in-process call:",
            "",
        ]
        lines += rows_of(run["rate"], ("checkout", "largest_rps", "p50_ms", "in_process_p50_ms", "added_p50_ms"))
    if "rivals" in run:
        lines += ["", "A handler that takes no time, one worker:", ""]
        there = [row for row in run["rivals"] if "absent" not in row]
        lines += rows_of(
            there, ("server", "batch", "connections", "rate_rps", "p50_ms", "p99_ms", "server_us", "failed")
        )
        gone = {row["server"]: row["absent"] for row in run["rivals"] if "absent" in row}
        lines += ["", *(f"- {name} is absent: {why}" for name, why in gone.items())]
    return "\n".join(lines) + "\n"


def rows_of(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    found = [[row.get(name, "") for name in names] for row in rows]
    shown = [[f"{value:.2f}" if isinstance(value, float) else str(value) for value in line] for line in found]
    return ["| " + " | ".join(line) + " |" for line in (names, ["---"] * len(names), *shown)]


def main() -> None:
    """See the module's docstring; --help lists the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--against", type=Path, help="another checkout, with its library built, in turn with this one")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one load")
    parser.add_argument("--out", type=Path, default=loads.ROOT / "results" / "local" / "bench-server")
    args = parser.parse_args()
    checkouts: list[Path | None] = [None] if args.against is None else [args.against.resolve(), None]
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    run: dict[str, Any] = {"cpu": names[0].split(": ")[-1] if names else "", "cores": psutil.cpu_count(),
                           "load": psutil.getloadavg()}  # fmt: skip
    alone = EngineAlone()
    parts = {
        "stages": stages,
        "costs": lambda: costs(checkouts, args.seconds, alone),
        "idle": lambda: idle_rows(2 * args.seconds, alone),
        "rate": lambda: rates(checkouts, args.seconds, alone),
        "rivals": lambda: beside(args.seconds),
    }
    out = args.out / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    out.mkdir(parents=True)
    for part in PARTS:
        if part in args.only:
            run[part] = parts[part]()
            (out / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
            (out / "table.md").write_text(table(run), encoding="utf-8")
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"wrote {out}", file=sys.stderr)


if __name__ == "__main__":
    main()
