"""Format versions of the run folder, and its manifest (run.json).

History
  1  first: run.json, trials.jsonl, requests/*.parquet, outputs/*.jsonl
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import EnvironmentFault
from harness.measure.machine.calibration import MachineOfRun

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Who measured a run that dyno only read: the tool, its version ('' where its files do not state it), the model as
    it names it, and name and SHA-256 of each file."""

    tool: str
    version: str
    model: str
    files: Mapping[str, str]

    @property
    def by(self) -> str:
        """'AIPerf 0.13.0'."""
        return f"{self.tool} {self.version}" if self.version else f"{self.tool} (its files do not state the version)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunManifest:
    """What was run, where, with what: run.json. `scenario` is the resolved scenario, `created_utc` ISO 8601; `imported`
    is there where another tool measured: then machine and versions are empty, since nobody recorded them. `machines`
    are those of a search on several, as they were last calibrated."""

    format: int = FORMAT
    scenario: Mapping[str, object]
    digest: str
    machine: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    git: str = ""
    created_utc: str = ""
    dyno_version: str = ""
    command: tuple[str, ...] = ()
    imported: Imported | None = None
    machines: tuple[MachineOfRun, ...] = ()


def check_format(number: object, where: str) -> None:
    """Raise EnvironmentFault when `where` was written in a format this version does not know."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise EnvironmentFault(f"{where}: expected a format number, got {number!r}; this is not a run of dynamometer")
    if number > FORMAT:
        raise EnvironmentFault(
            f"{where}: written in format {number}, this dynamometer reads up to {FORMAT}; install a newer one"
        )
