"""Layout of a run folder: the path of every file in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_RESULTS = Path("results") / "local"
"""Relative to the working directory; ignored by git."""


def runs_root(results: Path, scenario_name: str) -> Path:
    """The folder that holds every run of a scenario."""
    return results / scenario_name


@dataclass(frozen=True, slots=True)
class RunLayout:
    """The files of one run folder."""

    root: Path

    @property
    def run_json(self) -> Path:
        """The manifest."""
        return self.root / "run.json"

    @property
    def trials_jsonl(self) -> Path:
        """One trial per line, appended."""
        return self.root / "trials.jsonl"

    @property
    def calibration_jsonl(self) -> Path:
        """One launch of the calibration candidate per line, appended; a search on several machines has it."""
        return self.root / "calibration.jsonl"

    @property
    def study_db(self) -> Path:
        """Optuna's own storage."""
        return self.root / "study.db"

    @property
    def reference_json(self) -> Path:
        """The answers of the fp32 reference."""
        return self.root / "reference.json"

    @property
    def search_json(self) -> Path:
        """Written when a search ended on its own: why it ended. A run without it can be resumed."""
        return self.root / "search.json"

    @property
    def report_html(self) -> Path:
        """The page."""
        return self.root / "report.html"

    @property
    def recommendation_dir(self) -> Path:
        """serving.properties and what goes with it."""
        return self.root / "recommendation"

    @property
    def lock(self) -> Path:
        """Held while a dyno writes this run; holds its process id."""
        return self.root / ".lock"

    def requests(self, trial_id: str) -> Path:
        """The raw records of a trial."""
        return self.root / "requests" / f"{trial_id}.parquet"

    def telemetry(self, trial_id: str) -> Path:
        """What the machine did while a trial was loaded, one row per sampling interval."""
        return self.root / "telemetry" / f"{trial_id}.parquet"

    def engine_metrics(self, trial_id: str) -> Path:
        """What the server published about itself while a trial was loaded, one row per answer."""
        return self.root / "engine_metrics" / f"{trial_id}.parquet"

    def outputs(self, trial_id: str) -> Path:
        """The answers of a trial, {"id", "text"} per line."""
        return self.root / "outputs" / f"{trial_id}.jsonl"

    def logs(self, trial_id: str) -> Path:
        """The folder for what the processes of a trial wrote."""
        return self.root / "logs" / trial_id
