"""An attempt at an order: where it is made, the files that are sent with it, and what is handed on where it is lost."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from harness.store.requests_table import whole
from harness.tune.places import Done, Order

MOST_BYTES = 1 << 20
"""No file that a server is started from is larger."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node that takes trials, and the machine or part of one that it is."""

    node: str
    machine_id: str
    memory_mib: float


@dataclass(slots=True)
class Attempt:
    """An order on a place. Its `token` comes back with the answer; one that `is_open` no longer was handed on as lost
    before."""

    order: Order
    place: Place
    token: str
    is_open: bool = True
    is_calibration: bool = False

    def lost(self, why: str) -> Done:
        """What is handed on instead of a trial."""
        return Done(order=self.order, trial=None, lost=why, machine=self.place.machine_id)


def beside(path: Path) -> dict[str, str]:
    """The small files of the folder of a recommendation: name -> base64."""
    files = [each for each in path.parent.iterdir() if each.is_file() and each.stat().st_size <= MOST_BYTES]
    return {each.name: as_base64(each) for each in files}


def as_base64(path: Path) -> str:
    """The content of a file. Raises EnvironmentFault."""
    with whole(path):
        return base64.b64encode(path.read_bytes()).decode("ascii")
