"""Sentences on what the values of a file mean in DJL Serving: its queue, and the death of a worker."""

from __future__ import annotations

from collections.abc import Mapping

from harness.properties.containers import Container
from harness.properties.queue_order import queue_order

SEEN_ON = (0, 36, 0)
_BODY_MIB = 20
_PYTHON = ("Python", "MPI", "")


def meanings(values: Mapping[str, str], container: Container) -> list[str]:
    """One sentence each; none for our own server, whose page states its rules. Values that are no numbers count as
    absent: they are findings."""
    if container.is_own:
        return []
    is_seen = container.version == SEEN_ON
    seen = "seen on 0.36.0" if is_seen else "read in its source"
    if queue_order(container) == "heap":
        taken = "of waiting requests the newest is served first: where requests wait, P99 is many times P50"
    else:
        taken = "waiting requests are served first in, first out"
    lines = [f"{taken} ({seen})"]
    seen = "seen on 0.36.0" if is_seen else "seen on 0.36.0, not tried on this version"
    places = _whole(values, "job_queue_size", 1000)
    if places > 1:
        lines.append(
            f"job_queue_size={places} holds {places - 1} waiting requests while every worker is busy; the next gets a "
            f"503 ({seen})"
        )
    delay_ms = _whole(values, "max_batch_delay", 100)
    if _whole(values, "batch_size", 1) > 1 and delay_ms > 0:
        lines.append(
            f"max_batch_delay={delay_ms} ms count from when a worker takes the first request of a batch, however long "
            f"that one waited before ({seen})"
        )
    if values.get("engine", "") in _PYTHON:
        lines.append(f"{_deaths(values)} ({seen})")
    return lines


def _deaths(values: Mapping[str, str]) -> str:
    allowed = _whole(values, "retry_threshold", 0)
    timeout = f"{_whole(values, 'option.predict_timeout', 120)} s"
    if "option.predict_timeout" not in values:
        timeout += ", or the 240 s of an image's PREDICT_TIMEOUT"
    slow = f"a request longer than option.predict_timeout ({timeout})"
    causes = f"a worker's death, a body above {_BODY_MIB} MiB or {slow}"
    if allowed <= 0:
        return (
            f"retry_threshold=0: {causes} ends the model for good; retry_threshold=3 and maxWorkers one above "
            "minWorkers keep it serving"
        )
    workers = _whole(values, "minWorkers", 1)
    if _whole(values, "maxWorkers", workers) > workers:
        return f"retry_threshold={allowed}: after {causes} the worker is replaced in 0.4 s, {allowed} times"
    return (
        f"retry_threshold={allowed}: after {causes} the worker is replaced in 60 s, {allowed} times, and with no other "
        "worker every request gets a 503 until then; maxWorkers one above minWorkers makes it 0.4 s"
    )


def _whole(values: Mapping[str, str], key: str, default: int) -> int:
    try:
        return int(values.get(key, default))
    except ValueError:
        return default
