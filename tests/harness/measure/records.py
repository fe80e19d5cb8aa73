"""Synthetic request records."""

from __future__ import annotations

from typing import Any

from harness.measure.machine.sampler import ResourceUse
from harness.records import RequestRecord

MS = 1_000_000


def request(seq: int, intended_ms: float, latency_ms: float, **fields: Any) -> RequestRecord:
    """One request; any field of RequestRecord can be given."""
    intended_ns = int(intended_ms * MS)
    values: dict[str, Any] = {
        "seq": seq,
        "user": 0,
        "prompt_ids": ("p",),
        "intended_ns": intended_ns,
        "sent_ns": intended_ns,
        "first_token_ns": None,
        "done_ns": int((intended_ms + latency_ms) * MS),
        "outcome": "ok",
        "status_code": 200,
        "input_tokens": 5,
        "output_tokens": 10,
        "output_ids": (f"{seq}.0",),
        "is_warmup": False,
        **fields,
    }
    return RequestRecord(**values)


def closed_loop(users: int, rounds: int, latency_ms: float) -> tuple[RequestRecord, ...]:
    """`users` users who each send `rounds` requests, one after the other, all equally long."""
    return tuple(
        request(turn * users + user, turn * latency_ms, latency_ms, user=user)
        for turn in range(rounds)
        for user in range(users)
    )


def use(**fields: Any) -> ResourceUse:
    """A quiet machine: 10 s on 2 cores."""
    values: dict[str, Any] = {
        "window_s": 10.0,
        "cores": 2,
        "engine_s": 15.0,
        "harness_s": 0.5,
        "client_s": 0.4,
        "other_s": 0.2,
        "peak_memory_bytes": 300 << 20,
        "memory_kind": "PSS",
        "samples": 50,
    }
    return ResourceUse(**{**values, **fields})
