"""The same load by AIPerf, GuideLLM, others and ours, against one server with a known law: make bench-tools.

Each tool in turn sends `--requests` streamed completions by four users at a time to a new server with the same seed
(tests/truth/openai_law.py): the first token 300 ms times a lognormal factor after the request, 15 more 40 ms apart. For
each tool the table has what the server did (the truth), what the tool printed, and what our definitions make of the
requests that it kept (`dyno import`). The law takes a second, so a busy machine matters little; its load stands in the
table. Tools whose command is not on the PATH are left out: pip install guidellm (Python 3.11), aiperf, inference-perf
(Python 3.12), each in an environment whose bin/ is on the PATH. `--vllm PYTHON` names the interpreter of vLLM.
Writes table.md and run.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.imported.files import results_in
from harness.imported.result import AskedLoad, Result, with_users
from harness.imported.runs import summary_of
from harness.load.driver import drive
from harness.load.plan import LoadPlan
from harness.measure.machine.facts import machine_facts
from harness.records import Prompt, RequestRecord

ROOT = Path(__file__).resolve().parents[3]
TOKENIZER = ROOT / "scenarios" / "assets" / "llama-bench"
LAW = ("1", "300", "40", "16")
TOKENS = 16
USERS = 4
OURS = "dyno"
SHOWN = (
    ("latency_p50_ms", "latency P50 (ms)"), ("latency_p99_ms", "latency P99 (ms)"), ("ttft_p50_ms", "TTFT P50 (ms)"),
    ("ttft_p99_ms", "TTFT P99 (ms)"), ("tpot_p50_ms", "TPOT P50 (ms)"), ("throughput_rps", "requests/s"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Served:
    """A running law server, and where its log will be."""

    url: str
    log: Path

    def truth(self, first_ns: int = 0) -> dict[str, float]:
        """What the server did from `first_ns` of its clock on, by the names of our metrics; after it has ended."""
        rows = np.array([[int(each) for each in line.split()] for line in self.log.read_text().splitlines()])
        receipt, first, last = rows[rows[:, 0] >= first_ns].T
        latency_ms, ttft_ms = (last - receipt) / 1e6, (first - receipt) / 1e6
        return {
            "latency_p50_ms": float(np.quantile(latency_ms, 0.5)),
            "latency_p99_ms": float(np.quantile(latency_ms, 0.99)),
            "ttft_p50_ms": float(np.quantile(ttft_ms, 0.5)),
            "ttft_p99_ms": float(np.quantile(ttft_ms, 0.99)),
            "tpot_p50_ms": float(np.quantile((last - first) / 1e6 / (TOKENS - 1), 0.5)),
            "throughput_rps": len(receipt) / ((last.max() - receipt.min()) / 1e9),
            "requests": float(len(receipt)),
        }


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """The law server; after the context its log is there."""
    log = folder / "law.txt"
    command = [sys.executable, "-m", "tests.truth.openai_law", *LAW, str(log)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Served(f"http://127.0.0.1:{int(process.stdout.readline())}", log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def ours(server: Served, folder: Path, requests: int) -> tuple[Result, int]:
    """Our own load generator's requests, and when the first measured one left on the server's clock."""
    plan = LoadPlan(
        endpoint_url=server.url, protocol="openai", model_name="law",
        prompts=(Prompt(prompt_id="p", task="t", text="how long does the law take to answer", reference=None),),
        inputs_per_request=1, parameters={"max_new_tokens": TOKENS}, users=USERS, think_time_s=0.0, warmup_requests=4,
        requests=requests, max_duration_s=3600.0, request_timeout_s=60.0, stream=True, seed=0,
    )  # fmt: skip
    loaded = drive(plan, folder, should_stop=lambda: None, on_progress=lambda done: None)
    chosen = [record for record in loaded.records if not record.is_warmup]
    begin = min(record.intended_ns for record in chosen)
    load = AskedLoad(kind="closed", amount=USERS)
    records = with_users([_moved(record, begin) for record in chosen])
    return Result(tool=OURS, version="", files=(), model="law", load=load, is_streamed=True, requests=records), begin


def _moved(record: RequestRecord, begin: int) -> RequestRecord:
    """The same, in nanoseconds from `begin`."""
    return replace(
        record,
        intended_ns=record.intended_ns - begin,
        sent_ns=record.sent_ns - begin,
        done_ns=record.done_ns - begin,
        first_token_ns=None if record.first_token_ns is None else record.first_token_ns - begin,
        first_output_ns=None if record.first_output_ns is None else record.first_output_ns - begin,
        token_ns=tuple(at - begin for at in record.token_ns),
    )


def aiperf(server: Served, folder: Path, requests: int) -> Path:
    """AIPerf's file of requests."""
    _run(
        "aiperf", "profile", "-m", "law", "--endpoint-type", "completions", "--streaming", "-u", server.url,
        "--tokenizer", TOKENIZER, "--use-server-token-count", "--concurrency", USERS, "--request-count", requests,
        "--synthetic-input-tokens-mean", 24, "--output-tokens-mean", TOKENS, "--artifact-dir", folder / "out",
        "--ui", "none", "--workers-max", 1, is_offline=False,  # offline, 0.13 refuses a local folder
    )  # fmt: skip
    return folder / "out" / "profile_export.jsonl"


def guidellm(server: Served, folder: Path, requests: int) -> Path:
    """GuideLLM's report."""
    _run(
        "guidellm", "run",
        "--backend", f"kind=openai_http,target={server.url},model=law,request_format=/v1/completions",
        "--profile", f"kind=concurrent,streams={USERS}", "--constraint", f"kind=max_requests,count={requests}",
        "--tokenizer", f"kind=huggingface_auto,model={TOKENIZER}", "--disable-console-interactive",
        "--data", f"kind=synthetic_text,prompt_tokens=24,output_tokens={TOKENS}",
        "--output", f"kind=json,path={folder / 'benchmarks.json'}",
    )  # fmt: skip
    return folder / "benchmarks.json"


def inference_perf(server: Served, folder: Path, requests: int) -> Path:
    """inference-perf's file of requests."""
    lengths = f"{{min: {TOKENS}, max: {TOKENS}, mean: {TOKENS}, std_dev: 0, total_count: {requests}}}"
    (folder / "asked.yaml").write_text(
        f"""
api: {{type: completion, streaming: true}}
data:
  type: random
  input_distribution: {{min: 20, max: 28, mean: 24, std_dev: 2, total_count: {requests}}}
  output_distribution: {lengths}
load: {{type: concurrent, num_workers: 1, stages: [{{num_requests: {requests}, concurrency_level: {USERS}}}]}}
server: {{type: vllm, model_name: law, base_url: "{server.url}", ignore_eos: true}}
tokenizer: {{pretrained_model_name_or_path: {TOKENIZER}}}
report: {{request_lifecycle: {{summary: true, per_stage: true, per_request: true}}}}
storage: {{local_storage: {{path: {folder / "out"}}}}}
"""
    )
    _run("inference-perf", "--config_file", folder / "asked.yaml")
    return next((folder / "out").rglob("per_request_lifecycle_metrics.json"))


def vllm_bench(server: Served, folder: Path, requests: int, python: str) -> Path:
    """The result of `vllm bench serve`, by the function behind the command."""
    code = (
        "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
        "from vllm.benchmarks.serve import add_cli_args, main\n"
        "parser = FlexibleArgumentParser(); add_cli_args(parser); main(parser.parse_args())"
    )
    _run(
        python, "-c", code, "--backend", "openai", "--base-url", server.url, "--model", "law", "--tokenizer", TOKENIZER,
        "--dataset-name", "random", "--random-input-len", 24, "--random-output-len", TOKENS,
        "--num-prompts", requests, "--max-concurrency", USERS, "--request-rate", "inf", "--save-result",
        "--save-detailed", "--result-dir", folder, "--result-filename", "result.json", "--disable-tqdm",
        "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "99",
    )  # fmt: skip
    return folder / "result.json"


def _run(*words: object, is_offline: bool = True) -> None:
    environment = {**os.environ, **({"HF_HUB_OFFLINE": "1"} if is_offline else {})}
    done = subprocess.run([str(word) for word in words], env=environment, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        sys.exit(f"{words[0]}: {(done.stdout + done.stderr)[-2000:]}")


def measured(tool: str, requests: int, vllm: str) -> dict[str, dict[str, float | None]]:
    """Truth, what the tool printed and what we make of its requests, by metric."""
    with tempfile.TemporaryDirectory(prefix="dyno-tools-") as name:
        folder, first_ns = Path(name), 0
        with served(folder) as server:
            if tool == OURS:
                result, first_ns = ours(server, folder, requests)
            else:
                drivers = {"aiperf": aiperf, "guidellm": guidellm, "inference-perf": inference_perf}
                made = drivers[tool](server, folder, requests) if tool in drivers else None
                (result,) = results_in([made or vllm_bench(server, folder, requests, vllm)])
        truth = server.truth(first_ns)
    metrics = summary_of(result).metrics
    printed = {one.metric: one.value for one in result.reported}
    return {
        name: {
            "truth": truth[name],
            "printed": printed.get(name),
            "ours": metrics[name].value if name in metrics else None,
        }
        for name, _ in SHOWN
    } | {"requests": {"truth": truth["requests"], "printed": float(len(result.requests)), "ours": None}}


def table(found: dict[str, dict[str, dict[str, float | None]]], loads: Sequence[float], requests: int) -> str:
    """Markdown: a row for each tool and metric that has one."""
    lines = [
        f"{requests} streamed completions of {TOKENS} tokens, {USERS} users, a new server with the same seed for each "
        "tool; ours printed is what stands in the last column. "
        f"Load average {min(loads):.1f} to {max(loads):.1f} on {os.cpu_count()} cores meanwhile.",
        "",
        "| tool | metric | truth, at the server | printed by the tool | ours, of its requests |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for tool, metrics in found.items():
        for name, title in SHOWN:
            row = metrics[name]
            truth = row["truth"]
            assert truth is not None
            cells = [f"{truth:.4g}", *(_beside(row[key], truth) for key in ("printed", "ours"))]
            lines.append(f"| {tool} | {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _beside(value: float | None, truth: float) -> str:
    return "-" if value is None else f"{value:.4g} ({100 * (value / truth - 1):+.1f} %)"


def main() -> None:
    """Measure each tool that is here, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--vllm", default="", help="Python interpreter that has vLLM")
    parser.add_argument("--out", type=Path, default=Path("results") / "local" / "bench-tools")
    asked = parser.parse_args()
    tools = [OURS, *(tool for tool in ("aiperf", "guidellm", "inference-perf") if shutil.which(tool))]
    found, loads = {}, []
    for tool in [*tools, *(["vllm bench serve"] if asked.vllm else [])]:
        print(tool, file=sys.stderr, flush=True)
        found[tool] = measured(tool, asked.requests, asked.vllm)
        loads.append(os.getloadavg()[0])
    asked.out.mkdir(parents=True, exist_ok=True)
    machine = {"cpu": str(machine_facts().get("cpu_model")), "cores": os.cpu_count()}
    about = {
        "machine": machine,
        "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "requests": asked.requests,
        "law": LAW,
    }
    (asked.out / "run.json").write_text(json.dumps({**about, "loads_1min": loads, "tools": found}, indent=1) + "\n")
    (asked.out / "table.md").write_text(table(found, loads, asked.requests))
    print((asked.out / "table.md").read_text())


if __name__ == "__main__":
    main()
