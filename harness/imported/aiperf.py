"""Reader of AIPerf's profile_export.jsonl (the requests) and profile_export_aiperf.json (its own numbers)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path

from harness.imported.nodes import Node, documents
from harness.imported.result import LATEST_S, AskedLoad, Result, ns_of_ms, with_users
from harness.records import RequestOutcome, RequestRecord
from harness.reported import Reported
from harness.units import NS_PER_S

TOOL = "AIPerf"
_BESIDE = "_aiperf.json"
_SHARES = {"avg": "mean", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
_KINDS = {
    "request_latency": ("latency", "from the send, not from the intended one, to the last answer with content"),
    "time_to_first_token": ("ttft", "from the send, not from the intended one"),
    "inter_token_latency": ("tpot", "divided by all tokens but one, however many came at once"),
}
_RATES = {
    "request_throughput": "throughput_rps",
    "output_token_throughput": "output_tokens_per_s",
    "total_token_throughput": "total_tokens_per_s",
}
_OVER_ALL = "over the whole duration, the last requests included"
_COUNTS = ("request_count", "error_request_count", "benchmark_duration", "credit_to_start_latency")


def recognizes(root: Node) -> bool:
    """Whether this is one of its two files, of the requests its first line."""
    if root.has("metadata", "metrics"):
        return root.at("metadata").has("request_start_ns", "request_end_ns")
    return root.has("input_config") and root.has("request_latency")


def results(roots: Sequence[Node], path: Path) -> list[Result]:
    """One result: of its two files the one that was not named is read too, where it is beside the other."""
    if path.name.endswith(_BESIDE):
        summary_path, requests_path = path, path.with_name(path.name.removesuffix(_BESIDE) + ".jsonl")
    else:
        summary_path, requests_path = path.with_name(path.stem + _BESIDE), path
    lines = list(roots) if path == requests_path else documents(requests_path) if requests_path.is_file() else []
    summary = roots[0] if path == summary_path else documents(summary_path)[0] if summary_path.is_file() else None
    config = summary.maybe("input_config") if summary is not None else None
    load = _load(config) if config is not None else None
    records = _records(lines, is_scheduled=load is not None and load.is_open_loop)
    unavailable = {} if records else {"every metric": f"{TOOL} kept no requests beside this file: {requests_path.name}"}
    version = summary.maybe("aiperf_version") if summary is not None else None
    unknown = []
    if load is not None and load.is_open_loop:
        unknown.append("when its schedule wanted a request sent: latency counts from when it was let out to be sent")
    return [
        Result(
            tool=TOOL,
            version=version.text() if version is not None else "",
            files=tuple(each for each in (requests_path, summary_path) if each.is_file()),
            model=_model(config),
            load=load,
            is_streamed=any(record.first_token_ns is not None for record in records) or not records,
            requests=records,
            reported=_reported(summary) if summary is not None else (),
            unavailable=unavailable,
            unknown=tuple(unknown),
            started_utc=_started_utc(lines),
        )
    ]


def _started_utc(lines: Sequence[Node]) -> str:
    """By the wall clock of its first request; the summary's own start has no time zone."""
    if not lines:
        return ""
    first_ns = min(line.at("metadata").at("request_start_ns").nanoseconds() for line in lines)
    return datetime.fromtimestamp(min(first_ns / NS_PER_S, LATEST_S), UTC).isoformat(timespec="seconds")


def _records(lines: Sequence[Node], *, is_scheduled: bool) -> tuple[RequestRecord, ...]:
    if not lines:
        return ()
    intended_ns = [_intended_ns(line, is_scheduled=is_scheduled) for line in lines]
    begin_ns = min(intended_ns)
    return with_users([_record(line, at_ns, begin_ns) for line, at_ns in zip(lines, intended_ns, strict=True)])


def _intended_ns(line: Node, *, is_scheduled: bool) -> int:
    """Of a schedule, when its clock let the request out."""
    metadata = line.at("metadata")
    issued = metadata.maybe("credit_issued_ns") if is_scheduled else None
    return (issued or metadata.at("request_start_ns")).nanoseconds()


def _record(line: Node, intended_ns: int, begin_ns: int) -> RequestRecord:
    metadata, metrics, error = line.at("metadata"), line.at("metrics"), line.maybe("error")
    sent_ns = metadata.at("request_start_ns").nanoseconds() - begin_ns
    wait = metrics.maybe("time_to_first_token", "value")
    first_ns = sent_ns + ns_of_ms(wait.number()) if wait is not None else None
    chunks = metrics.maybe("inter_chunk_latency", "value")
    gaps = [ns_of_ms(gap.number()) for gap in chunks.items()] if chunks is not None else []
    phase = metadata.maybe("benchmark_phase")
    return RequestRecord(
        seq=0, user=0, prompt_ids=("",), intended_ns=intended_ns - begin_ns, sent_ns=sent_ns,
        first_token_ns=first_ns, done_ns=metadata.at("request_end_ns").nanoseconds() - begin_ns,
        outcome=_outcome(error) if error is not None else "ok", status_code=_code(error) if error is not None else 200,
        input_tokens=_count(metrics, "input_sequence_length"), output_tokens=_count(metrics, "output_sequence_length"),
        output_ids=(), is_warmup=phase is not None and phase.text() == "warmup",
        error=error.at("message").text()[:200] if error is not None and error.maybe("message") is not None else "",
        token_ns=tuple(accumulate(gaps, initial=first_ns)) if first_ns is not None and gaps else (),
    )  # fmt: skip


def _count(metrics: Node, name: str) -> int | None:
    node = metrics.maybe(name, "value")
    return node.whole() if node is not None else None


def _code(error: Node) -> int:
    code = error.maybe("code")
    return code.whole() if code is not None else 0


def _outcome(error: Node) -> RequestOutcome:
    code = _code(error)
    if code in (429, 503):
        return "rejected"
    return "bad_request" if 400 <= code < 500 and code not in (408, 499) else "server_error"


def _load(config: Node) -> AskedLoad | None:
    """Of one profiling phase with one rate or number of users; other loads are none that one number states."""
    phases = config.maybe("phases")
    rows = phases.items() if phases is not None else []
    asked = [row for row in rows if row.maybe("kind") is None or row.at("kind").value == "profiling"]
    if len(asked) != 1 or asked[0].maybe("type") is None:
        return None
    kind, users, rate = asked[0].at("type").text(), asked[0].maybe("concurrency"), asked[0].maybe("rate")
    if kind == "concurrency" and users is not None:
        return AskedLoad(kind="closed", amount=users.number(1))
    if rate is None or asked[0].maybe("rate_ramp") is not None or asked[0].maybe("rate_series") is not None:
        return None
    if kind == "gamma":
        shape = asked[0].maybe("smoothness")
        return AskedLoad(kind="gamma", amount=rate.number(), cv=1 / math.sqrt(shape.number(1e-6) if shape else 1.0))
    if kind not in ("constant", "poisson"):
        return None
    return AskedLoad(kind="constant" if kind == "constant" else "poisson", amount=rate.number())


def _model(config: Node | None) -> str:
    models = config.maybe("models", "items") if config is not None else None
    return ", ".join(model.at("name").text() for model in models.items()) if models is not None else ""


def _reported(summary: Node) -> tuple[Reported, ...]:
    found = []
    for name, (kind, differs) in _KINDS.items():
        for share, ours in _SHARES.items():
            node = summary.maybe(name, share)
            if node is not None:
                unit = summary.at(name).at("unit").text()
                metric = f"{kind}_{ours}_ms" if unit == "ms" else ""
                found.append(
                    Reported(name=f"{name} {share}", value=node.number(), unit=unit, metric=metric, differs=differs)
                )
    for name in (*_RATES, *_COUNTS):
        node = summary.maybe(name, "avg")
        if node is not None:
            unit, metric = summary.at(name).at("unit").text(), _RATES.get(name, "")
            differs = _OVER_ALL if metric else ""
            found.append(Reported(name=name, value=node.number(), unit=unit, metric=metric, differs=differs))
    return tuple(found)
