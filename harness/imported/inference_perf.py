"""Reader of inference-perf's per_request_lifecycle_metrics.json and the files in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UsageError
from harness.imported.nodes import NEXT, Node, documents
from harness.imported.result import AskedLoad, Result, ns_after, with_users
from harness.records import RequestRecord
from harness.reported import Reported

TOOL = "inference-perf"
_REQUESTS, _SUMMARY, _CONFIG = "per_request_lifecycle_metrics.json", "summary_lifecycle_metrics.json", "config.yaml"
_SHARES = {"mean": "mean", "median": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
_FROM_SEND = "from the send, not from the intended one"
_KINDS = {
    "request_latency": ("latency", _FROM_SEND),
    "time_to_first_token": ("ttft", _FROM_SEND),
    "time_per_output_token": ("tpot", "divided by all tokens but one, however many came at once"),
    "inter_token_latency": ("itl", "tokens that came together count as gaps of 0"),
}
_RATES = {
    "requests_per_sec": ("requests/s", "throughput_rps"),
    "input_tokens_per_sec": ("tokens/s", "input_tokens_per_s"),
    "output_tokens_per_sec": ("tokens/s", "output_tokens_per_s"),
    "total_tokens_per_sec": ("tokens/s", "total_tokens_per_s"),
}
_OVER_ALL = "over the whole duration, the last requests included"


def recognizes(root: Node) -> bool:
    """Whether this is the file of its requests, or a summary."""
    if isinstance(root.value, list):
        return bool(root.value) and root.items()[0].has("start_time", "end_time", "info", "error")
    return root.has("load_summary", "successes", "failures")


def results(roots: Sequence[Node], path: Path) -> list[Result]:
    """One result: of its files those that were not named are read too, where they are in the same folder."""
    is_requests = isinstance(roots[0].value, list)
    requests_path = path if is_requests else path.with_name(_REQUESTS)
    summary_path = path if not is_requests else path.with_name(_SUMMARY)
    rows = roots[0].items() if is_requests else []
    if not is_requests and requests_path.is_file():
        rows = documents(requests_path)[0].items()
    summary = roots[0] if not is_requests else documents(summary_path)[0] if summary_path.is_file() else None
    config = _config(path.with_name(_CONFIG))
    records = _records(rows)
    load = _load(config)
    unavailable = {} if records else {"every metric": f"{TOOL} kept no requests beside this file ({_REQUESTS})"}
    unknown = []
    if load is not None and load.is_open_loop:
        unknown.append(
            "when its schedule wanted a request sent: latency counts from the send, a late client is forgiven"
        )
    if any(record.outcome != "ok" for record in records):
        unknown.append("whether the server refused or broke: a failed request has an error text alone")
    files = (requests_path, summary_path, path.with_name(_CONFIG))
    return [
        Result(
            tool=TOOL,
            version="",
            files=tuple(each for each in files if each.is_file()),
            model=_model(config),
            load=load,
            is_streamed=any(record.first_token_ns is not None for record in records) or not records,
            requests=records,
            reported=_reported(summary) if summary is not None else (),
            unavailable=unavailable,
            unknown=tuple(unknown),
        )
    ]


def _records(rows: Sequence[Node]) -> tuple[RequestRecord, ...]:
    if not rows:
        return ()
    begin = min(row.at("start_time").number() for row in rows)
    return with_users([_record(row, begin) for row in rows])


def _record(row: Node, begin: float) -> RequestRecord:
    sent_ns, error, info = ns_after(row.at("start_time").number(), begin), row.maybe("error"), row.maybe("info")
    response = info.maybe("response_metrics") if info is not None else None
    times = response.maybe("output_token_times") if response is not None else None
    token_ns = tuple(ns_after(time.number(), begin) for time in times.items()) if times is not None else ()
    served = response.maybe("server_usage", "completion_tokens") if response is not None else None
    counted = served or (response.maybe("output_tokens") if response is not None else None)
    given = info.maybe("request_metrics", "text", "input_tokens") or info.maybe("input_tokens") if info else None
    message = error.maybe("error_msg") if error is not None else None
    return RequestRecord(
        seq=0, user=0, prompt_ids=("",), intended_ns=sent_ns, sent_ns=sent_ns,
        first_token_ns=token_ns[0] if token_ns and error is None else None,
        done_ns=ns_after(row.at("end_time").number(), begin), outcome="ok" if error is None else "server_error",
        status_code=200 if error is None else 0, input_tokens=given.whole() if given is not None else None,
        output_tokens=counted.whole() if counted is not None and error is None else None, output_ids=(),
        is_warmup=False, error=message.text()[:200] if message is not None else "",
        token_ns=token_ns if error is None else (), counted_by="server" if served is not None else "",
    )  # fmt: skip


def _config(path: Path) -> Node | None:
    """Its settings; None where the file is not there."""
    if not path.is_file():
        return None
    try:
        fields: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: expected the settings of {TOOL} as YAML, got a text that is none; {NEXT}") from error
    return Node(fields, str(path))


def _load(config: Node | None) -> AskedLoad | None:
    """Of one stage; several stages are several loads in one file, which no scenario's load states."""
    load = config.maybe("load") if config is not None else None
    stages = load.maybe("stages") if load is not None else None
    if load is None or stages is None or len(stages.items()) != 1:
        return None
    stage, kind = stages.items()[0], load.maybe("type")
    users, rate = stage.maybe("concurrency_level"), stage.maybe("rate")
    if users is not None:
        return AskedLoad(kind="closed", amount=users.number(1))
    if rate is None or kind is None or kind.text() not in ("constant", "poisson"):
        return None
    return AskedLoad(kind="constant" if kind.text() == "constant" else "poisson", amount=rate.number())


def _model(config: Node | None) -> str:
    name = config.maybe("server", "model_name") if config is not None else None
    return name.text() if name is not None else ""


def _reported(summary: Node) -> tuple[Reported, ...]:
    found = []
    for name, (kind, differs) in _KINDS.items():
        for share, ours in _SHARES.items():
            node = summary.maybe("successes", "latency", name, share)
            if node is not None:
                value, metric = node.number() * 1000, f"{kind}_{ours}_ms"
                found.append(Reported(name=f"{name} {share}", value=value, unit="ms", metric=metric, differs=differs))
    for name, (unit, metric) in _RATES.items():
        node = summary.maybe("successes", "throughput", name)
        if node is not None:
            found.append(Reported(name=name, value=node.number(), unit=unit, metric=metric, differs=_OVER_ALL))
    return tuple(found)
