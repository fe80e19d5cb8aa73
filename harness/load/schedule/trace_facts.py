"""Facts of a trace as one trial replays it: requests, time, rate and lengths, in lines for a plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness.load.plan import NO_TURN
from harness.load.schedule.request_times import Schedule, trace_schedule
from harness.load.schedule.trace import Trace, read_trace
from harness.scenario.load_kinds import TraceLoad
from harness.units import format_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFacts:
    """A trace file, as read, and the schedule made of it."""

    name: str
    trace: Trace
    schedule: Schedule
    speed: float
    block_tokens: int

    @property
    def unlimited_hit_frac(self) -> float | None:
        """What a prefix cache without bound would have of the input tokens; None where the trace names no blocks."""
        return self.schedule.unlimited_hit_frac(self.block_tokens)

    def lines(self) -> Iterator[str]:
        """What is sent: requests, seconds and rates; lengths; and what of the file is not replayed."""
        sent, held = len(self.schedule.offsets_ns), len(self.trace.rows)
        part = f" (of {held} in the trace, which takes longer)" if sent < held else ""
        rate = f"{self.schedule.asked_rps:.3g} requests/s, {self.schedule.peak_rps:.0f} in the busiest second"
        speed = f" at {self.speed:g} times its speed" if self.speed != 1 else ""
        when = f"in {format_duration(self.schedule.duration_s)}{speed}: {rate}"
        if sent == held and not self.schedule.offsets_ns[-1]:
            when = "at once"
        yield f"{self.name}: {sent} requests{part} {when}; times: {self.trace.times}"
        inputs, outputs = self.schedule.input_lengths, self.schedule.output_lengths
        if inputs or outputs:
            yield (
                f"input lengths: {_spread(inputs, sent) or 'none, each prompt at its own'}; "
                f"output lengths: {_spread(outputs, sent) or 'none, max_new_tokens for all'}"
            )
        else:
            yield "lengths: none in the trace; each prompt is sent at its own, with max_new_tokens for all"
        if self.schedule.follows:
            turns = sum(before != NO_TURN for before in self.schedule.follows)
            yield f"conversations: {sent - turns}, in which {turns} turns wait for the answer before them"
        if (hit_frac := self.unlimited_hit_frac) is not None:
            different = len({block for blocks in self.schedule.blocks for block in blocks})
            named = f"blocks: {different:,} different ones of {self.block_tokens} tokens; " if different else ""
            yield f"{named}a prefix cache without bound would have {hit_frac:.1%} of the input tokens"
        if self.trace.skipped:
            yield f"skipped: {self.trace.skipped} rows that ask for 0 tokens"
        if self.trace.unused:
            yield f"not replayed: {', '.join(self.trace.unused)}"

    def as_dict(self) -> dict[str, Any]:
        """The same, JSON-able."""
        return {
            "requests": len(self.schedule.offsets_ns),
            "rows": len(self.trace.rows),
            "duration_s": self.schedule.duration_s,
            "rate_rps": self.schedule.asked_rps,
            "peak_rps": self.schedule.peak_rps,
            "times": self.trace.times,
            "input_length": _numbers(self.schedule.input_lengths),
            "output_length": _numbers(self.schedule.output_lengths),
            "unlimited_hit_frac": self.unlimited_hit_frac,
            "skipped": self.trace.skipped,
            "unused": list(self.trace.unused),
        }


def trace_facts(load: TraceLoad, path: Path, max_duration_s: float) -> TraceFacts:
    """The facts of the trace in `path`, of which a trial replays `max_duration_s`. Raises ScenarioError."""
    trace = read_trace(path, load.time_unit, load.block_tokens)
    schedule = trace_schedule(trace, load.speed, max_duration_s)
    return TraceFacts(name=path.name, trace=trace, schedule=schedule, speed=load.speed, block_tokens=load.block_tokens)


def _spread(lengths: Sequence[int | None], sent: int) -> str:
    known = [length for length in lengths if length is not None]
    if not known:
        return ""
    some = f" in {len(known)} of {sent} requests" if len(known) < sent else ""
    return f"{min(known)} to {max(known)} tokens, median {median(known):g}{some}"


def _numbers(lengths: Sequence[int | None]) -> dict[str, float] | None:
    known = [length for length in lengths if length is not None]
    if not known:
        return None
    return {"requests": len(known), "min": min(known), "median": median(known), "max": max(known)}
