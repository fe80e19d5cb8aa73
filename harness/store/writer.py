"""The writer of one run folder: created or resumed, locked against a second dyno, every write whole or absent."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from harness.errors import EnvironmentFault
from harness.measure.machine.calibration import Calibration, MachineOfRun
from harness.records import RequestRecord, Trial
from harness.store.answers import answer_lines
from harness.store.codec import to_json
from harness.store.disk import append_line, disk_faults, write_text, write_whole
from harness.store.formats import FORMAT, RunManifest
from harness.store.layout import RunLayout, runs_root
from harness.store.one_class import check_class
from harness.store.reader import read_manifest, whole_lines
from harness.store.requests_table import write_table
from harness.store.telemetry_table import write_columns


class RunWriter:
    """The one writer of a run folder. A context manager: leaving it releases the lock."""

    def __init__(self, layout: RunLayout, manifest: RunManifest, lock: int) -> None:
        self.layout = layout
        self.manifest = manifest
        self._lock = lock

    @classmethod
    def create(cls, results_root: Path, manifest: RunManifest) -> RunWriter:
        """A new run folder <results>/<scenario name>/<utc>-<digest>. Raises EnvironmentFault; then nothing is left."""
        name = str(manifest.scenario.get("name") or "unnamed")
        parent = runs_root(results_root, name)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        with disk_faults(parent):
            parent.mkdir(parents=True, exist_ok=True)
            root = _fresh_folder(parent, f"{stamp}-{manifest.digest}")
        layout = RunLayout(root)
        lock = _lock(layout)
        try:
            write_text(layout.run_json, json.dumps(to_json(manifest), indent=2) + "\n")
        except BaseException:
            os.close(lock)
            shutil.rmtree(root, ignore_errors=True)
            raise
        return cls(layout, manifest, lock)

    @classmethod
    def resume(cls, root: Path) -> RunWriter:
        """Continue writing an existing run. A torn last line of its files (the writer was killed) is cut off.

        Raises UsageError when `root` is no run, EnvironmentFault when another dyno is writing it.
        """
        layout = RunLayout(root)
        manifest = read_manifest(root)
        lock = _lock(layout)
        try:
            _cut_torn_line(layout.trials_jsonl)
            _cut_torn_line(layout.calibration_jsonl)
            for leftover in root.rglob(".*.tmp"):
                leftover.unlink(missing_ok=True)
        except BaseException:
            os.close(lock)
            raise
        return cls(layout, manifest, lock)

    def append_trial(self, trial: Trial) -> None:
        """Add a finished trial; on the disk when this returns. Raises EnvironmentFault, also for a trial of a machine
        class that is not the run's; then the file is unchanged."""
        check_class(self.layout.root, self.manifest, [trial])
        line = json.dumps({"format": FORMAT, **to_json(trial)}, separators=(",", ":"))
        append_line(self.layout.trials_jsonl, line.encode("utf-8"))

    def append_calibration(self, calibration: Calibration) -> None:
        """Add a launch of the calibration candidate; on the disk when this returns. Raises EnvironmentFault."""
        check_class(self.layout.root, self.manifest, [calibration.trial])
        line = json.dumps({"format": FORMAT, **to_json(calibration)}, separators=(",", ":"))
        append_line(self.layout.calibration_jsonl, line.encode("utf-8"))

    def set_machines(self, machines: Sequence[MachineOfRun]) -> None:
        """Replace the machines that run.json lists. Raises EnvironmentFault."""
        self.manifest = replace(self.manifest, machines=tuple(machines))
        write_text(self.layout.run_json, json.dumps(to_json(self.manifest), indent=2) + "\n")

    def set_facts(self, facts: Mapping[str, object]) -> None:
        """Replace these facts of the machine in run.json. Raises EnvironmentFault."""
        if facts:
            self.manifest = replace(self.manifest, machine={**self.manifest.machine, **facts})
            write_text(self.layout.run_json, json.dumps(to_json(self.manifest), indent=2) + "\n")

    def write_requests(self, trial_id: str, records: Sequence[RequestRecord], level: str = "") -> Path:
        """Write a trial's raw records, of one `level` of its load where there are several; returns the path. Raises
        EnvironmentFault."""
        path = self.layout.requests(trial_id)
        write_whole(path, lambda partial: write_table(partial, records, level))
        return path

    def write_telemetry(self, trial_id: str, columns: Mapping[str, Sequence[float | None]]) -> Path:
        """Write what the machine did during a trial (column -> values, t_ns first); returns the path.

        Raises EnvironmentFault.
        """
        return _write_columns(self.layout.telemetry(trial_id), columns)

    def write_engine_metrics(self, trial_id: str, columns: Mapping[str, Sequence[float | None]]) -> Path:
        """Write what the server published during a trial (column -> values, t_ns first); returns the path.

        Raises EnvironmentFault.
        """
        return _write_columns(self.layout.engine_metrics(trial_id), columns)

    def write_outputs(self, trial_id: str, outputs: Mapping[str, str], *, keeps_texts: bool = True) -> Path:
        """Write a trial's answers, of each its length and digest alone where not `keeps_texts`; returns the path.

        Raises EnvironmentFault."""
        path = self.layout.outputs(trial_id)
        write_text(path, answer_lines(outputs, keeps_texts=keeps_texts))
        return path

    def close(self) -> None:
        """Release the lock; harmless when repeated."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _write_columns(path: Path, columns: Mapping[str, Sequence[float | None]]) -> Path:
    write_whole(path, lambda partial: write_columns(partial, columns))
    return path


def _fresh_folder(parent: Path, name: str) -> Path:
    """Two runs may begin in the same second: the later one gets a number."""
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        try:
            (parent / f"{name}{suffix}").mkdir()
        except FileExistsError:
            continue
        return parent / f"{name}{suffix}"
    raise EnvironmentFault(f"{parent / name}: a thousand runs began in one second; wait a second and run again")


def _lock(layout: RunLayout) -> int:
    """An open, locked descriptor; the kernel releases it when this process ends, however it ends."""
    with disk_faults(layout.lock):
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise EnvironmentFault(
            f"{layout.root}: process {owner} is writing this run; wait until it ends, or stop it, then run again"
        ) from error
    try:
        with disk_faults(layout.lock):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    data = path.read_bytes()
    kept = sum(len(line) + 1 for line in whole_lines(data))
    if kept != len(data):
        with disk_faults(path), path.open("rb+") as file:
            file.truncate(kept)
            os.fsync(file.fileno())
