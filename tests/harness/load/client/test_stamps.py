"""When an answer arrived: the kernel's stamps of the wall clock on the monotonic clock."""

from __future__ import annotations

from collections.abc import Callable

from harness.load.client.http import StampReader

AHEAD_NS = 1_700_000_000_000_000_000
"""The wall clock stands so far before the monotonic one."""
ARRIVED_NS = 5_000_000_000
TICK_NS = 50
"""What one reading of a clock takes."""


class Clocks:
    """A monotonic clock and a wall clock; a reading whose number is in `pauses` is followed by that pause in ns."""

    def __init__(self, pauses: dict[int, int] | None = None) -> None:
        self.now_ns, self.ahead_ns = ARRIVED_NS + 200_000, AHEAD_NS
        self._pauses, self._readings = pauses or {}, 0

    def _read(self, ahead_ns: int) -> int:
        value = self.now_ns + ahead_ns
        self.now_ns += TICK_NS + self._pauses.get(self._readings, 0)
        self._readings += 1
        return value

    def wall_ns(self) -> int:
        return self._read(self.ahead_ns)

    def monotonic_ns(self) -> int:
        return self._read(0)

    def reader(self) -> Callable[[int], int]:
        return StampReader(self.wall_ns, self.monotonic_ns).monotonic_of


def test_a_stamp_is_brought_to_the_monotonic_clock() -> None:
    assert 0 <= Clocks().reader()(ARRIVED_NS + AHEAD_NS) - ARRIVED_NS <= 2 * TICK_NS


def test_a_pause_between_two_readings_makes_no_arrival_earlier() -> None:
    for paused in range(6):
        at_ns = Clocks({paused: 7_000_000}).reader()(ARRIVED_NS + AHEAD_NS)
        assert 0 <= at_ns - ARRIVED_NS <= 2 * TICK_NS, paused


def test_with_pauses_at_every_reading_an_arrival_is_late_and_never_early() -> None:
    at_ns = Clocks(dict.fromkeys(range(100), 1_000_000)).reader()(ARRIVED_NS + AHEAD_NS)
    assert 0 <= at_ns - ARRIVED_NS <= 1_000_000 + 2 * TICK_NS


def test_where_the_wall_clock_was_set_the_reading_counts() -> None:
    for step_ns in (3_000_000, -3_000_000, 20_000_000_000, -20_000_000_000):
        clocks = Clocks()
        monotonic_of = clocks.reader()
        monotonic_of(ARRIVED_NS + AHEAD_NS)
        arrived_ns, clocks.ahead_ns = clocks.now_ns, AHEAD_NS + step_ns
        for late in range(3):  # answers that came before it was set
            assert 0 <= monotonic_of(arrived_ns + AHEAD_NS) - arrived_ns <= 3 * (late + 1) * TICK_NS
        arrived_ns, clocks.now_ns = clocks.now_ns, clocks.now_ns + 200_000
        assert 0 <= monotonic_of(arrived_ns + clocks.ahead_ns) - arrived_ns <= 2 * TICK_NS
