"""Reader of GuideLLM's benchmarks.json: each benchmark of it a load, with its requests and GuideLLM's own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.imported.nodes import Node
from harness.imported.result import LATEST_S, AskedLoad, Result, ns_after, with_users
from harness.records import RequestOutcome, RequestRecord
from harness.reported import Reported

TOOL = "GuideLLM"
_SHARES = ("mean", "median", "p50", "p90", "p95", "p99")
_FROM_SEND = "from the send, not from the intended one"
_KINDS = {
    "request_latency": ("s", "latency", _FROM_SEND),
    "time_to_first_token_ms": ("ms", "ttft", _FROM_SEND),
    "time_per_output_token_ms": ("ms", "", "counts the first token and the wait for it"),
    "inter_token_latency_ms": ("ms", "tpot", "one number an answer, divided by all tokens but one"),
}
_RATES = {
    "requests_per_second": ("requests/s", "throughput_rps"),
    "output_tokens_per_second": ("tokens/s", "output_tokens_per_s"),
    "tokens_per_second": ("tokens/s", "total_tokens_per_s"),
}
_OVER_TIME = "a distribution over moments; its mean counts the last requests too"
_NO_GAPS = "GuideLLM keeps the times of an answer's first and last token, not of those between"
_OUTCOMES: dict[str, RequestOutcome] = {"successful": "ok", "errored": "server_error", "incomplete": "server_error"}


def recognizes(root: Node) -> bool:
    """Whether this is such a file."""
    benchmarks = root.maybe("benchmarks")
    if benchmarks is None or not isinstance(benchmarks.value, list):
        return False
    return all(each.has("config", "metrics") for each in benchmarks.items())


def results(documents: Sequence[Node], path: Path) -> list[Result]:
    """One result for each benchmark."""
    root = documents[0]
    version = root.maybe("metadata", "guidellm_version")
    return [_result(each, version.text() if version else "", path) for each in root.at("benchmarks").items()]


def _result(benchmark: Node, version: str, path: Path) -> Result:
    requests = benchmark.maybe("requests")
    load = _load(benchmark.at("config").maybe("strategy"))
    is_scheduled = load is not None and load.is_open_loop
    records = _records(requests, is_scheduled=is_scheduled) if requests is not None else ()
    unavailable = {"itl, tpot": _NO_GAPS} if records else {"every metric": f"{TOOL} kept no requests in this file"}
    unknown = []
    if any(record.outcome != "ok" for record in records):
        unknown.append("whether the server refused or broke: a failed request has an error text alone")
    if requests is not None and (cut := requests.maybe("incomplete")) is not None and cut.value:
        unknown.append(f"how {len(cut.items())} requests that were cut off at the end would have ended: left out")
    start = benchmark.maybe("start_time")
    return Result(
        tool=TOOL,
        version=version,
        files=(path,),
        model=_model(benchmark.at("config")),
        load=load,
        is_streamed=any(record.first_token_ns is not None for record in records) or not records,
        requests=records,
        reported=_reported(benchmark.at("metrics")),
        unavailable=unavailable,
        unknown=tuple(unknown),
        started_utc=datetime.fromtimestamp(min(start.number(), LATEST_S), UTC).isoformat(timespec="seconds")
        if start
        else "",
    )


def _records(requests: Node, *, is_scheduled: bool) -> tuple[RequestRecord, ...]:
    """Those that ended; what was cut off at the end is no answer and no failure."""
    rows = [
        (row, _OUTCOMES[status])
        for status in ("successful", "errored")
        if requests.maybe(status) is not None
        for row in requests.at(status).items()
        if row.at("info").at("timings").maybe("request_start") is not None
    ]
    if not rows:
        return ()
    intended = [_intended(row, is_scheduled=is_scheduled) for row, _ in rows]
    begin = min(intended)
    return with_users([_record(row, outcome, at, begin) for (row, outcome), at in zip(rows, intended, strict=True)])


def _intended(row: Node, *, is_scheduled: bool) -> float:
    """Where no schedule was, 'targeted' means as soon as possible: there it is the send, as with every other tool."""
    timings = row.at("info").at("timings")
    start = timings.at("request_start").number()
    targeted = timings.maybe("targeted_start") if is_scheduled else None
    return min(start, targeted.number()) if targeted is not None else start


def _record(row: Node, outcome: RequestOutcome, intended: float, begin: float) -> RequestRecord:
    timings, error = row.at("info").at("timings"), row.at("info").maybe("error")
    first, shown = timings.maybe("first_token_iteration"), timings.maybe("first_output_token_iteration")
    end = timings.maybe("request_end") or timings.at("resolve_end")
    is_streamed = first is not None and timings.has("token_iterations") and timings.at("token_iterations").number() > 1
    return RequestRecord(
        seq=0, user=0, prompt_ids=("",), intended_ns=ns_after(intended, begin),
        sent_ns=ns_after(timings.at("request_start").number(), begin),
        first_token_ns=ns_after(first.number(), begin) if first is not None and is_streamed else None,
        done_ns=ns_after(end.number(), begin), outcome=outcome, status_code=200 if outcome == "ok" else 0,
        input_tokens=_count(row, "input_metrics"), output_tokens=_count(row, "output_metrics"),
        output_ids=(), is_warmup=False, error=error.text()[:200] if error is not None else "",
        first_output_ns=ns_after(shown.number(), begin) if shown is not None and is_streamed else None,
    )  # fmt: skip


def _count(row: Node, name: str) -> int | None:
    found = row.maybe(name, "total_tokens") or row.maybe(name, "text_tokens")
    return found.whole() if found is not None else None


def _load(strategy: Node | None) -> AskedLoad | None:
    kind = strategy.maybe("type_") if strategy is not None else None
    if strategy is None or kind is None:
        return None
    if kind.text() == "synchronous":
        return AskedLoad(kind="closed", amount=1)
    streams, rate = strategy.maybe("streams") or strategy.maybe("max_concurrency"), strategy.maybe("rate")
    if kind.text() == "constant" and rate is not None:
        return AskedLoad(kind="constant", amount=rate.number())
    if kind.text() == "poisson" and rate is not None:
        return AskedLoad(kind="poisson", amount=rate.number())
    if kind.text() == "concurrent" and streams is not None:
        return AskedLoad(kind="closed", amount=streams.number(1))
    return None  # throughput: as much as it can, so what was outstanding is all there is


def _model(config: Node) -> str:
    model = config.maybe("backend", "model")
    return model.text() if model is not None and isinstance(model.value, str) else ""


def _reported(metrics: Node) -> tuple[Reported, ...]:
    found = []
    for name, (unit, kind, differs) in _KINDS.items():
        good = metrics.maybe(name, "successful")
        for share in _SHARES if good is not None else ():
            assert good is not None
            node = good.maybe(share) or good.maybe("percentiles", share)
            if node is None or (share == "p50" and good.maybe("median") is not None):
                continue
            scale = 1000 if unit == "s" else 1
            ours = f"{kind}_{'p50' if share == 'median' else share}_ms" if kind else ""
            found.append(
                Reported(name=f"{name} {share}", value=node.number() * scale, unit="ms", metric=ours, differs=differs)
            )
    for name, (unit, ours) in _RATES.items():
        node = metrics.maybe(name, "successful", "mean")
        if node is not None:
            found.append(Reported(name=f"{name} mean", value=node.number(), unit=unit, metric=ours, differs=_OVER_TIME))
    return tuple(found)
