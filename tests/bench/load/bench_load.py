"""How fast and how true load generators are, against one C server on this machine, in one run: make bench-load.

Two questions of each tool that is installed. Rate: requests per second, closed loop, 16 connections, the server answers
at once. Error at light load: at 100 requests/s with a service time of 10 ms, by how much the tool's own p50 and p99
exceed the server's (from reading a request to writing its answer; the loopback's own time, some 30 us, is in the error
of every tool). Ours also: how late requests leave at 100 and 500 requests/s. Every row is the median of `--rounds`
interleaved rounds. Writes load.md and load.json. A loaded machine is said to be one.

wrk comes from the system's packages; guidellm and aiperf from PyPI, each in an environment of its own whose bin/ is on
the PATH: python -m venv guidellm-env && guidellm-env/bin/pip install guidellm (aiperf alike), then
PATH=$PWD/guidellm-env/bin:$PWD/aiperf-env/bin:$PATH make bench-load. Works with guidellm 0.8.1, aiperf 0.13.0, wrk 4.1.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT))

from harness.load.driver import LoadResult, drive  # noqa: E402
from harness.load.plan import LoadPlan  # noqa: E402
from harness.load.schedule.arrivals import schedule_of  # noqa: E402
from harness.records import Prompt  # noqa: E402
from harness.scenario.load_kinds import ConstantLoad  # noqa: E402

USERS = 16
LIGHT_RPS = 100.0
LIGHT_SERVICE_US = 10_000
WARMUP = 20
TOKENIZER = ROOT / "scenarios" / "assets" / "flan-t5-bench"
"""For the tools that cannot work without one."""
BUSY_SHARE = 0.05
"""Share of all cores' time, in the 3 s before, above which the machine is called busy."""


@dataclass
class Server:
    """Its port; after the context, `log` [N, 2]: receipt and write of every request, ns."""

    port: int
    log: Any = field(default_factory=lambda: np.zeros((0, 2), np.int64))

    def service_ms(self) -> Any:
        """Service times of the requests after the warm-up."""
        return (self.log[WARMUP:, 1] - self.log[WARMUP:, 0]) / 1e6

    def rate_rps(self) -> float:
        """Requests per second in the middle 80 % of the log: starting and stopping of a tool are left out."""
        at = np.sort(self.log[:, 1])
        first, last = int(len(at) * 0.1), int(len(at) * 0.9) - 1
        return (last - first) / ((at[last] - at[first]) / 1e9) if last > first else 0.0


@contextmanager
def server(binary: Path, service_us: int) -> Iterator[Server]:
    """The C server, running in the context."""
    log = binary.with_name("server.log")
    with subprocess.Popen([str(binary), str(service_us), str(log)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        running = Server(port=int(child.stdout.readline()))
        try:
            yield running
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait()
    running.log = np.loadtxt(log, dtype=np.int64, ndmin=2).reshape(-1, 2)


@dataclass
class Outcome:
    """One tool in one round; what it cannot tell stays None."""

    rate_rps: float | None = None
    error_p50_ms: float | None = None
    error_p99_ms: float | None = None
    lag_p99_ms: float | None = None
    note: str = ""


def ours(folder: Path, port: int, seconds: float, processes: int = 1, rate_rps: float = 0.0) -> LoadResult:
    """Our load generator: closed loop, or open loop at a rate."""
    schedule: dict[str, Any] = {}
    if rate_rps:
        load = ConstantLoad(kind="constant", rate_rps=rate_rps)
        made = schedule_of(load, requests=10**7, max_duration_s=seconds, seed=0)
        schedule = {"offsets_ns": made.offsets_ns, "window_s": made.duration_s}
    plan = LoadPlan(
        endpoint_url=f"http://127.0.0.1:{port}", protocol="djl", model_name="m",
        prompts=(Prompt(prompt_id="p", task="t", text="how fast is the client?", reference=None),),
        inputs_per_request=1, parameters={}, users=USERS, think_time_s=0.0, warmup_requests=WARMUP,
        requests=10**8, max_duration_s=seconds, request_timeout_s=30.0, stream=False, seed=0, processes=processes,
        **schedule,
    )  # fmt: skip
    return drive(plan, folder, should_stop=lambda: None, on_progress=lambda done: None)


def _errors(latency_ms: Any, served: Server) -> dict[str, float]:
    true_ms = served.service_ms()
    return {
        f"error_p{round(q * 100)}_ms": float(np.quantile(latency_ms, q) - np.quantile(true_ms, q)) for q in (0.5, 0.99)
    }


def _lag_p99_ms(result: LoadResult) -> float:
    return float(np.quantile([r.sent_ns - r.intended_ns for r in result.records if not r.is_warmup], 0.99)) / 1e6


def measure_ours(binary: Path, folder: Path, seconds: float, processes: int) -> Outcome:
    with server(binary, 0) as fast:
        ours(folder, fast.port, seconds, processes)
    with server(binary, LIGHT_SERVICE_US) as light:
        result = ours(folder, light.port, seconds, processes, LIGHT_RPS)
    latency = np.array([r.done_ns - r.sent_ns for r in result.records if not r.is_warmup]) / 1e6
    with server(binary, LIGHT_SERVICE_US) as middle:
        at_500 = ours(folder, middle.port, seconds, processes, 500.0)
    return Outcome(rate_rps=fast.rate_rps(), lag_p99_ms=_lag_p99_ms(at_500), **_errors(latency, light))


def measure_locust(binary: Path, folder: Path, seconds: float, user: str) -> Outcome:
    """Rate from the server's log; times from Locust's own exact median and p99 columns, which it rounds."""
    with server(binary, 0) as fast:
        _locust(folder, fast.port, seconds, user, USERS, 0.0)
    users = 10
    with server(binary, LIGHT_SERVICE_US) as light:
        row = _locust(folder, light.port, seconds, user, users, users / LIGHT_RPS)
    true_ms = light.service_ms()
    return Outcome(
        rate_rps=fast.rate_rps(),
        error_p50_ms=float(row["50%"]) - float(np.quantile(true_ms, 0.5)),
        error_p99_ms=float(row["99%"]) - float(np.quantile(true_ms, 0.99)),
        note="percentiles rounded to 1 ms by the tool",
    )


def _locust(folder: Path, port: int, seconds: float, user: str, users: int, pace_s: float) -> dict[str, str]:
    out = folder / "locust"
    argv = [
        sys.executable, "-m", "locust", "-f", str(HERE / "locust_users.py"), user, "--headless", "--skip-log-setup",
        "-u", str(users), "-r", str(users), "-t", f"{seconds:g}s", "-H", f"http://127.0.0.1:{port}",
        "--csv", str(out), "--stop-timeout", "2",
    ]  # fmt: skip
    env = {**os.environ, "BENCH_PACE_S": f"{pace_s}"}
    subprocess.run(argv, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with out.with_name("locust_stats.csv").open() as file:
        return next(row for row in csv.DictReader(file) if row["Name"] == "Aggregated")


def measure_wrk(binary: Path, folder: Path, seconds: float) -> Outcome:
    script = folder / "post.lua"
    script.write_text(
        'wrk.method="POST"\nwrk.body=\'{"inputs":"a"}\'\nwrk.headers["Content-Type"]="application/json"\n'
    )
    with server(binary, 0) as fast:
        url = f"http://127.0.0.1:{fast.port}/invocations"
        argv = ["wrk", "-t1", f"-c{USERS}", f"-d{max(1, round(seconds))}s", "-s", str(script), url]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return Outcome(rate_rps=fast.rate_rps(), note="cannot keep a rate; one thread")


def measure_guidellm(binary: Path, folder: Path, seconds: float) -> Outcome:
    """Its rate with as many streams as the others have; its request latencies at a constant rate. Options of 0.8."""

    def run(port: int, profile: str) -> Any:
        out = folder / "guidellm.json"
        out.unlink(missing_ok=True)
        argv = [
            "guidellm", "run", "--profile", profile, "--constraint", f"kind=max_duration,seconds={seconds:g}",
            "--backend", f"kind=openai_http,target=http://127.0.0.1:{port},model=m,request_format=/v1/completions,"
            "stream=false",
            "--tokenizer", f"kind=huggingface_auto,model={TOKENIZER}", "--disable-console",
            "--data", "kind=synthetic_text,prompt_tokens=8,output_tokens=1", "--output", f"kind=json,path={out}",
        ]  # fmt: skip
        env = {**os.environ, "HF_HUB_OFFLINE": "1"}
        subprocess.run(argv, check=True, env=env, capture_output=True, timeout=300)
        return json.loads(out.read_text())

    with server(binary, 0) as fast:
        run(fast.port, f"kind=concurrent,streams={USERS}")
    with server(binary, LIGHT_SERVICE_US) as light:
        output = run(light.port, f"kind=constant,rate={LIGHT_RPS:g}")
    latency = [
        (r["request_end_time"] - r["request_start_time"]) * 1e3
        for r in output["benchmarks"][0]["requests"]["successful"]
    ]
    return Outcome(rate_rps=fast.rate_rps(), **_errors(latency, light))


def measure_aiperf(binary: Path, folder: Path, seconds: float) -> Outcome:
    """Rate at a fixed concurrency; its exported p50 and p99 at a constant rate."""

    def run(port: int, kind: list[str]) -> Any:
        out = folder / "aiperf"
        shutil.rmtree(out, ignore_errors=True)
        argv = [
            "aiperf", "profile", "--model", "m", "--url", f"http://127.0.0.1:{port}", "--endpoint-type", "completions",
            *kind, "--benchmark-duration", f"{seconds:g}", "--isl", "8", "--osl", "1",
            "--tokenizer", str(TOKENIZER), "--artifact-dir", str(out), "--ui", "none",
        ]  # fmt: skip
        # Offline, 0.13 looks a local folder up in the hub's cache and refuses it; asked openly, it reads the folder.
        env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        subprocess.run(argv, check=True, env=env, capture_output=True, timeout=300)
        return json.loads(next(out.rglob("profile_export_aiperf.json")).read_text())

    with server(binary, 0) as fast:
        run(fast.port, ["--concurrency", str(USERS)])
    with server(binary, LIGHT_SERVICE_US) as light:
        output = run(light.port, ["--request-rate", f"{LIGHT_RPS:g}", "--request-rate-mode", "constant"])
    true_ms = light.service_ms()
    return Outcome(
        rate_rps=fast.rate_rps(),
        error_p50_ms=output["request_latency"]["p50"] - float(np.quantile(true_ms, 0.5)),
        error_p99_ms=output["request_latency"]["p99"] - float(np.quantile(true_ms, 0.99)),
    )


Measure = Callable[[Path, Path, float], Outcome]


def tools() -> tuple[dict[str, Measure], dict[str, str]]:
    """Tools that are here, and why the others are not."""
    here: dict[str, Measure] = {
        "dyno, 1 process": lambda b, f, s: measure_ours(b, f, s, 1),
        "dyno, 2 processes": lambda b, f, s: measure_ours(b, f, s, 2),
        "Locust FastHttpUser": lambda b, f, s: measure_locust(b, f, s, "Fast"),
        "Locust HttpUser": lambda b, f, s: measure_locust(b, f, s, "Plain"),
    }
    missing = {}
    others: dict[str, tuple[bool, Measure]] = {
        "wrk": (shutil.which("wrk") is not None, measure_wrk),
        "guidellm": (shutil.which("guidellm") is not None, measure_guidellm),
        "aiperf": (shutil.which("aiperf") is not None, measure_aiperf),
    }
    for name, (is_here, measure) in others.items():
        if is_here:
            here[name] = measure
        else:
            missing[name] = "not on the PATH"
    return here, missing


def run(rounds: int, seconds: float, only: str) -> dict[str, Any]:
    """Every tool in every round, interleaved."""
    here, missing = tools()
    here = {name: measure for name, measure in here.items() if only in name}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in here}
    cpu_share_before = psutil.cpu_percent(interval=3.0) / 100
    failures: dict[str, list[str]] = {name: [] for name in here}
    with tempfile.TemporaryDirectory(prefix="dyno-bench-load-") as text:
        folder = Path(text)
        binary = folder / "server"
        subprocess.run(["gcc", "-O2", "-o", str(binary), str(HERE / "server.c")], check=True)
        for turn in range(rounds):
            for name, measure in here.items():
                print(f"round {turn + 1} of {rounds}: {name}", file=sys.stderr)
                try:
                    outcomes[name].append(measure(binary, folder, seconds))
                except (subprocess.SubprocessError, OSError, LookupError, ValueError, StopIteration) as error:
                    failures[name].append(_why(error))
                time.sleep(0.5)
    facts = ("rate_rps", "error_p50_ms", "error_p99_ms", "lag_p99_ms")
    rows = {}
    for name, found in outcomes.items():
        failed = f"{len(failures[name])} of {rounds} rounds failed: {failures[name][0]}" if failures[name] else ""
        if found:
            note = "; ".join(part for part in (found[0].note, failed) if part)
            rows[name] = {fact: _median([getattr(each, fact) for each in found]) for fact in facts} | {"note": note}
        else:
            missing[name] = failed
    return {
        "machine": {
            "cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform(),
            "cpu_share_before": cpu_share_before,
        },
        "is_busy": cpu_share_before > BUSY_SHARE,
        "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rounds": rounds, "seconds": seconds, "users": USERS, "light_rps": LIGHT_RPS,
        "light_service_us": LIGHT_SERVICE_US, "tools": rows, "missing": missing,
        "samples": {name: [vars(each) for each in found] for name, found in outcomes.items()},
    }  # fmt: skip


def _why(error: BaseException) -> str:
    """The tool's own last words about an error, else its last line, where it left one."""
    message = getattr(error, "stderr", b"") or getattr(error, "stdout", b"") or b""
    lines = message.decode("utf-8", "replace").strip().splitlines() if isinstance(message, bytes) else []
    last = ([line for line in lines if "rror" in line] or lines)[-1:]
    return f"{type(error).__name__}: {''.join(last) or error}"[:200]


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def markdown(output: dict[str, Any]) -> str:
    """The table."""
    machine = output["machine"]
    lines = [
        f"Client and server together on {machine['cores']} cores ({machine['cpu']}), {output['utc']}, median of "
        f"{output['rounds']} interleaved rounds of {output['seconds']:g} s; CPU in use before: "
        f"{machine['cpu_share_before']:.0%}.",
        "" if not output["is_busy"] else "\n**The machine was busy: these numbers say little.**\n",
        "| tool | requests/s | error p50 (ms) | error p99 (ms) | send lag p99 at 500/s (ms) | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, row in output["tools"].items():
        cells = [f"{row['rate_rps']:,.0f}" if row["rate_rps"] else "-"]
        cells += [f"{row[k]:+.2f}" if row[k] is not None else "-" for k in ("error_p50_ms", "error_p99_ms")]
        cells.append(f"{row['lag_p99_ms']:.2f}" if row["lag_p99_ms"] is not None else "-")
        lines.append(f"| {name} | {' | '.join(cells)} | {row['note']} |")
    lines += [f"| {name} | - | - | - | - | {why} |" for name, why in output["missing"].items()]
    lines += [
        "",
        f"Rate: closed loop, {output['users']} connections, a server that answers at once. Error: at "
        f"{output['light_rps']:g} requests/s and {output['light_service_us'] / 1000:g} ms of service, the tool's "
        "percentile minus the server's own.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", default="", help="tools whose name contains this")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "local" / "bench-load")
    given = parser.parse_args()
    output = run(given.rounds, given.seconds, given.only)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "load.json").write_text(json.dumps(output, indent=2) + "\n")
    (given.out / "load.md").write_text(markdown(output))
    print(markdown(output))
    print(f"wrote {given.out / 'load.md'} and {given.out / 'load.json'}", file=sys.stderr)


if __name__ == "__main__":
    main()
