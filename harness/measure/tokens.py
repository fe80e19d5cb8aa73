"""Token metrics of streams: time to the first token, gaps between tokens, time per output token.

TTFT counts from the intended send to the first token of any kind; TTFO to the first that is not reasoning (sent apart,
or as text before </think>), which is what a reader waits for. Tokens with the same time came together: one arrival. A
gap (ITL) is between two arrivals; servers that send several tokens at once make fewer and longer gaps, and the note
states so. TPOT is one number per answer: the time from its first to its last arrival over the tokens that came after
the first arrival: counted where each token has its time, else n * (1 - 1/m) of n tokens in m equal arrivals; m - 1 when
tokens come alone. n is what was sent: without hidden reasoning, and without the end token, which servers count and do
not send (one token more than fills m equal arrivals).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.measure.statistics.estimators import mean, percentile
from harness.records import Metric, RequestRecord
from harness.units import ms_from_ns

CHUNKED_FRAC = 0.02
"""Arrivals fewer than tokens by more than this: tokens came in chunks (the end token is often counted, never sent)."""


def token_metrics(chosen: Sequence[RequestRecord], block: int) -> dict[str, Metric]:
    """ttft_*, itl_* and tpot_* of measured requests in time order; empty when nothing was streamed."""
    ok = [record for record in chosen if record.outcome == "ok" and record.first_token_ns is not None]
    if not ok:
        return {}
    waits = [(record.first_token_ns or 0) - record.intended_ns for record in ok]
    metrics = {f"ttft_{name}_ms": percentile(waits, q, block=block) for name, q in _PERCENTILES.items()}
    metrics["ttft_mean_ms"] = mean(waits, block=block)
    metrics.update(_first_output(ok, block))
    gaps = gaps_ns(ok)
    if len(gaps):
        note = _chunk_note(ok)
        for name, q in _TAILS.items():
            metrics[f"itl_{name}_ms"] = percentile(gaps, q, note=note)  # type: ignore[arg-type]
        estimator = "mean of all gaps, which depend on each other: no interval"
        metrics["itl_mean_ms"] = Metric(
            value=ms_from_ns(float(gaps.mean())), unit="ms", estimator=estimator, n=len(gaps), note=note
        )
    per_token = [value for record in ok if (value := tpot_ns(record)) is not None]
    if per_token:
        metrics.update({f"tpot_{name}_ms": percentile(per_token, q, block=block) for name, q in _TAILS.items()})
        metrics["tpot_mean_ms"] = mean(per_token, block=block)
    return metrics


_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_TAILS = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def _first_output(ok: Sequence[RequestRecord], block: int) -> dict[str, Metric]:
    """ttfo_*, of the answers that hold more than reasoning; nothing where kinds of tokens are not distinguished."""
    seen = [record for record in ok if record.first_output_ns is not None]
    if not seen:
        return {}
    only = len(ok) - len(seen)
    note = f"{only} answers held nothing but reasoning and are not in it" if only else ""
    waits = [(record.first_output_ns or 0) - record.intended_ns for record in seen]
    return {f"ttfo_{name}_ms": percentile(waits, q, note=note, block=block) for name, q in _PERCENTILES.items()}


def arrivals_ns(record: RequestRecord) -> npt.NDArray[np.int64]:
    """The distinct times at which tokens of an answer came, rising."""
    return np.unique(np.asarray(record.token_ns, dtype=np.int64))


def gaps_ns(records: Sequence[RequestRecord]) -> npt.NDArray[np.float64]:
    """Every gap between arrivals of the same answer, answer by answer."""
    gaps = [np.diff(arrivals_ns(record)) for record in records]
    return np.concatenate(gaps).astype(np.float64) if gaps else np.zeros(0, dtype=np.float64)


def tpot_ns(record: RequestRecord) -> float | None:
    """Time per output token after the first, of one answer; None with fewer than two arrivals."""
    arrivals = arrivals_ns(record)
    if len(arrivals) < 2:
        return None
    timed = len(record.token_ns)
    if timed > len(arrivals):
        after_first: float = timed - record.token_ns.count(int(arrivals[0]))
    else:
        after_first = _sent(record) * (1 - 1 / timed)
    return float(arrivals[-1] - arrivals[0]) / after_first


def _sent(record: RequestRecord) -> int:
    """Tokens of a streamed answer that were sent, by the server's count where it knows more than the arrivals show."""
    timed = len(record.token_ns)
    counted = max(timed, (record.output_tokens or 0) - record.hidden_tokens)
    return counted - 1 if timed > 1 and counted % timed == 1 else counted


def is_short(record: RequestRecord) -> bool:
    """Whether an answer is shorter than the fixed length asked for; a tokenizer's count may be a tenth too low."""
    if record.asked_tokens is None or record.output_tokens is None:
        return False
    tolerance = 0.9 if record.counted_by == "tokenizer" else 1.0
    return record.output_tokens < record.asked_tokens * tolerance


def meets(record: RequestRecord, slo: dict[str, float]) -> bool:
    """Whether the answer is good, as long as asked, and inside every threshold (ms): latency_ms, ttft_ms, tpot_ms, and
    itl_ms, which bounds the longest gap of the answer. An answer without the token times that a threshold needs is
    outside, unless it is too short to have them."""
    if record.outcome != "ok" or is_short(record):
        return False
    seen: dict[str, float | None] = {"latency_ms": record.latency_ns}
    if "ttft_ms" in slo:
        seen["ttft_ms"] = None if record.first_token_ns is None else record.first_token_ns - record.intended_ns
    has_no_gap = record.first_token_ns is not None and len(arrivals_ns(record)) < 2
    if "tpot_ms" in slo:
        seen["tpot_ms"] = 0.0 if has_no_gap else tpot_ns(record)
    if "itl_ms" in slo:
        gaps = gaps_ns([record])
        seen["itl_ms"] = 0.0 if has_no_gap else float(gaps.max()) if len(gaps) else None
    return all((value := seen[name]) is not None and ms_from_ns(value) <= bound for name, bound in slo.items())


def more_pieces(records: Sequence[RequestRecord]) -> str:
    """'' or how many answers came in more pieces than they have tokens by the server's own count: it counts another
    thing, such as its last piece alone, or sends parts of tokens."""
    counted = [record for record in records if record.outcome == "ok" and record.counted_by == "server"]
    odd = [record for record in counted if len(record.token_ns) > (record.output_tokens or 0) + 1]
    if len(odd) <= CHUNKED_FRAC * len(counted):
        return ""
    pieces, tokens = (np.median(each) for each in ([len(r.token_ns) for r in odd], [r.output_tokens or 0 for r in odd]))
    return (
        f"{len(odd)} of {len(counted)} answers came in more pieces (median {pieces:.0f}) than they have tokens by the "
        f"server's count (median {tokens:.0f}): ITL and TPOT are per piece, and output_tokens_per_s is as that count"
    )


def _chunk_note(ok: Sequence[RequestRecord]) -> str:
    counted = [record for record in ok if record.output_tokens]
    tokens = sum(_sent(record) for record in counted)
    arrivals = sum(len(arrivals_ns(record)) for record in counted)
    if tokens <= arrivals * (1 + CHUNKED_FRAC):
        return ""
    return f"tokens came in chunks of {tokens / max(1, arrivals):.2g}: gaps are between chunks"
