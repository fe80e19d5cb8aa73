"""The schedule of an open loop: when each request leaves, and its lengths; and that of a recorded trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.errors import ScenarioError
from harness.load.plan import NO_TURN
from harness.load.schedule.trace import Trace
from harness.load.schedule.trace_blocks import unlimited_hit_frac
from harness.units import NS_PER_S

MAX_REQUESTS = 5_000_000
"""A longer schedule would not fit the memory of a load process beside its records."""

UNBOUNDED = 1 << 62
"""The number of requests of a load that ends by time alone."""

PEAK_WINDOW_S = 1.0
"""The peak rate is counted over windows this long: what the client must be able to send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Offsets (ns from the opening, never falling), one per request; lengths in tokens where a trace asks for them, and
    the ids of the blocks that make each input where it names them. `follows` names for each request the one before
    it in its conversation, NO_TURN for none; it is empty where the trace names no conversation of several turns.

    `duration_s` is the time the schedule covers, so `asked_rps` x `duration_s` is the number of requests.
    """

    offsets_ns: tuple[int, ...]
    duration_s: float
    input_lengths: tuple[int | None, ...] = ()
    output_lengths: tuple[int | None, ...] = ()
    blocks: tuple[tuple[int, ...], ...] = ()
    follows: tuple[int, ...] = ()

    @property
    def asked_rps(self) -> float:
        """Mean rate over the whole schedule."""
        return len(self.offsets_ns) / self.duration_s if self.duration_s > 0 else 0.0

    def unlimited_hit_frac(self, block_tokens: int) -> float | None:
        """What a prefix cache without bound would have of the input tokens; None where inputs share nothing."""
        lengths = [length or 0 for length in self.input_lengths]
        if self.blocks:
            return unlimited_hit_frac(zip(self.blocks, lengths, strict=True), block_tokens)
        if not self.follows or not sum(lengths):
            return None
        return sum(min(lengths[before], length) for before, length in self._turns(lengths)) / sum(lengths)

    def _turns(self, lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
        """(the turn before, the length) of each turn that follows one."""
        return ((before, n) for before, n in zip(self.follows, lengths, strict=True) if before != NO_TURN)

    @property
    def peak_rps(self) -> float:
        """Requests in the busiest second."""
        window_ns, begin, peak = int(PEAK_WINDOW_S * NS_PER_S), 0, 0
        for end, at_ns in enumerate(self.offsets_ns, start=1):
            while self.offsets_ns[begin] <= at_ns - window_ns:
                begin += 1
            peak = max(peak, end - begin)
        return peak / PEAK_WINDOW_S


def trace_schedule(trace: Trace, speed: float, max_duration_s: float) -> Schedule:
    """The schedule of a trace from its first arrival on, `speed` times as fast, `max_duration_s` of it at most. Raises
    ScenarioError: too many requests."""
    rows = trace.rows
    first_s = rows[0].at_s
    kept = [row for row in rows if (row.at_s - first_s) / speed < max_duration_s]
    if len(kept) > MAX_REQUESTS:
        raise ScenarioError(too_many(len(kept)))
    last_s = (kept[-1].at_s - first_s) / speed
    if last_s >= UNBOUNDED / NS_PER_S:
        raise ScenarioError(
            f"workload.load.speed: expected a trace that takes less than {UNBOUNDED / NS_PER_S:.0f} s, got "
            f"{last_s:.3g} s at speed {speed:g}; raise speed or lower max_duration_s"
        )
    offsets = tuple(round((row.at_s - first_s) / speed * NS_PER_S) for row in kept)
    has_input = any(row.input_length is not None for row in kept)
    has_output = any(row.output_length is not None for row in kept)
    return Schedule(
        offsets_ns=offsets,
        duration_s=max(offsets[-1] / NS_PER_S, 1 / NS_PER_S) if len(kept) == len(rows) else max_duration_s,
        input_lengths=tuple(row.input_length for row in kept) if has_input else (),
        output_lengths=tuple(row.output_length for row in kept) if has_output else (),
        blocks=tuple(row.blocks for row in kept) if any(row.blocks for row in kept) else (),
        follows=follows_of([row.session for row in kept]),
    )


def follows_of(sessions: Sequence[str]) -> tuple[int, ...]:
    """For each row the one before it of the same conversation, NO_TURN for the first and for rows of none; () where
    no conversation has two."""
    last: dict[str, int] = {}
    found: list[int] = []
    for number, session in enumerate(sessions):
        found.append(last.get(session, NO_TURN) if session else NO_TURN)
        last[session] = number
    return tuple(found) if any(each != NO_TURN for each in found) else ()


def too_many(requests: float) -> str:
    """The sentence that refuses a schedule of so many requests."""
    return (
        f"workload.load: {requests:,.0f} requests in one trial are more than the {MAX_REQUESTS:,} a schedule may hold; "
        "lower the rate, max_duration_s or requests"
    )
