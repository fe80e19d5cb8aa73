"""Reader of what `vllm bench serve --save-result` writes; `--save-detailed` adds the requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from harness.imported.nodes import Node
from harness.imported.result import AskedLoad, Result, ns_after, with_users
from harness.records import RequestRecord
from harness.reported import Reported
from harness.units import NS_PER_S

TOOL = "vllm bench serve"
_SHARES = {"mean": "mean", "median": "p50", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p999": "p999"}
_KINDS = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2el": "latency"}
_FROM_SEND = "from the send after the wait for a free place (max_concurrency), not from the intended send"
_TPOT = "divided by all tokens but one, however many came at once"
_RATES = {
    "request_throughput": ("requests/s", "throughput_rps"),
    "output_throughput": ("tokens/s", "output_tokens_per_s"),
    "total_token_throughput": ("tokens/s", "total_tokens_per_s"),
    "request_goodput": ("requests/s", ""),
    "completed": ("requests", ""),
    "failed": ("requests", ""),
    "duration": ("s", ""),
}
_OVER_ALL = "over the whole duration, the last requests included"


def recognizes(root: Node) -> bool:
    """Whether this is such a result."""
    return root.has("request_throughput", "total_token_throughput", "num_prompts", "backend")


def results(documents: Sequence[Node], path: Path) -> list[Result]:
    """One result a document: --append-result writes several into one file."""
    return [_result(root, path) for root in documents]


def _result(root: Node, path: Path) -> Result:
    load = _load(root)
    records = _records(root, load) if root.has("start_times", "ttfts", "itls") else ()
    unavailable = {} if records else {"every metric": f"{TOOL} kept no requests; run it with --save-detailed"}
    unknown = (
        ["which answers were cut off or refused: a failed request has an error text alone"]
        if any(record.outcome != "ok" for record in records)
        else []
    )
    if load is not None and load.is_open_loop:
        unknown.append(
            "when its schedule wanted a request sent: a wait for a free place is counted, a late client is forgiven"
        )
    return Result(
        tool=TOOL,
        version="",
        files=(path,),
        model=root.at("model_id").text() if root.maybe("model_id") else "",
        load=load,
        is_streamed=any(record.first_token_ns is not None for record in records) or not records,
        requests=records,
        reported=_reported(root),
        unavailable=unavailable,
        unknown=tuple(unknown),
    )


def _load(root: Node) -> AskedLoad | None:
    rate, most = root.maybe("request_rate"), root.maybe("max_concurrency")
    if rate is None:
        return None
    if rate.value in ("inf", math.inf):
        return AskedLoad(kind="closed", amount=(most or root.at("num_prompts")).number(1))
    burstiness = root.maybe("burstiness")
    shape = burstiness.number() if burstiness is not None else 1.0
    if shape == 1.0 or shape == 0:
        return AskedLoad(kind="poisson", amount=rate.number())
    return AskedLoad(kind="gamma", amount=rate.number(), cv=1 / math.sqrt(shape))


def _records(root: Node, load: AskedLoad | None) -> tuple[RequestRecord, ...]:
    names = ("start_times", "ttfts", "itls", "input_lens", "output_lens", "errors")
    columns = {name: root.at(name).items() for name in names}
    # Without a rate every request is made at once and waits for a place: that wait is no latency but the load itself.
    waits = ("queue_times",) if load is not None and load.is_open_loop else ()
    for name in ("latencies", *waits):
        if root.maybe(name) is not None:
            columns[name] = root.at(name).items()
    n = len(columns["start_times"])
    for name, column in columns.items():
        if len(column) != n:
            raise root.at(name).refused(f"a list of {n}, one for each of start_times,")
    if not n:
        return ()
    begin = min(start.number() for start in columns["start_times"])
    return with_users([_record({name: column[place] for name, column in columns.items()}, begin) for place in range(n)])


def _record(row: dict[str, Node], begin: float) -> RequestRecord:
    sent_ns = ns_after(row["start_times"].number(), begin)
    error = row["errors"].text()
    gaps = [gap.number() for gap in row["itls"].items()]
    ttft = row["ttfts"].number()
    waited = row["queue_times"].number() if "queue_times" in row else 0.0
    took = row["latencies"].number() if "latencies" in row else ttft + sum(gaps)
    is_streamed = bool(gaps) or (not error and 0 < ttft < took)
    times = [sent_ns + round(after * NS_PER_S) for after in accumulate(gaps, initial=ttft)] if is_streamed else []
    return RequestRecord(
        seq=0, user=0, prompt_ids=("",), intended_ns=sent_ns - round(waited * NS_PER_S), sent_ns=sent_ns,
        first_token_ns=times[0] if times and not error else None, done_ns=sent_ns + round(took * NS_PER_S),
        outcome="server_error" if error else "ok", status_code=0 if error else 200,
        input_tokens=row["input_lens"].whole(), output_tokens=None if error else row["output_lens"].whole(),
        output_ids=(), is_warmup=False, error=error[:200], token_ns=() if error else tuple(times),
    )  # fmt: skip


def _reported(root: Node) -> tuple[Reported, ...]:
    found = []
    for name, (unit, metric) in _RATES.items():
        node = root.maybe(name)
        if node is not None and _is_number(node):
            differs = _OVER_ALL if metric else ""
            found.append(Reported(name=name, value=node.number(), unit=unit, metric=metric, differs=differs))
    for name, node in root.fields():
        parts = name.split("_")
        if len(parts) == 3 and parts[0] in _SHARES and parts[1] in _KINDS and parts[2] == "ms" and _is_number(node):
            differs = _TPOT if parts[1] == "tpot" else "" if parts[1] == "itl" else _FROM_SEND
            metric = f"{_KINDS[parts[1]]}_{_SHARES[parts[0]]}_ms"
            found.append(Reported(name=name, value=node.number(), unit="ms", metric=metric, differs=differs))
    return tuple(found)


def _is_number(node: Node) -> bool:
    """Whether the tool had a value: of nothing it writes NaN."""
    return isinstance(node.value, int | float) and node.value == node.value
