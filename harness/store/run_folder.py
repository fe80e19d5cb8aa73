"""The run folder to write to: a new one, or the newest unfinished one of the same scenario."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.errors import DynoError
from harness.measure.machine.facts import git_commit, machine_facts, package_versions
from harness.measure.machine.machine_class import Machine, differences, this_machine
from harness.scenario.resolve import ResolvedScenario
from harness.store.disk import write_text
from harness.store.formats import RunManifest
from harness.store.layout import RunLayout, runs_root
from harness.store.reader import read_manifest, read_run
from harness.store.writer import RunWriter

_OF_A_START = ("split_check",)
"""Facts of the machine that each start of a search finds anew."""


def open_run(
    resolved: ResolvedScenario,
    results: Path,
    is_new: bool,
    note: Callable[[str], None],
    machine: Machine | None = None,
) -> RunWriter:
    """The writer of the newest unfinished run of the scenario, or of a new one; `note` is called with which it is.

    `machine` is one of those that measure (None: this one). Raises EnvironmentFault when another dyno writes the run
    or the disk refuses.
    """
    machine = machine or this_machine()
    others = [] if is_new else find_unfinished(resolved, results)
    unfinished = next((root for root in others if not _why_other_class(root, machine)), None)
    if unfinished is None:
        if others:
            differs = _why_other_class(others[0], machine)
            note(f"{others[0]} is unfinished, but of another machine class ({differs}): a new run begins")
        writer = create_run(resolved, results, git_commit(), machine.facts)
        note(f"run {writer.layout.root}")
        return writer
    writer = RunWriter.resume(unfinished)
    writer.set_facts({name: machine.facts[name] for name in _OF_A_START if name in machine.facts})
    note(f"resuming {unfinished}")
    note(f"{len(read_run(unfinished).trials)} trials are there; --new would begin again")
    return writer


def create_run(
    resolved: ResolvedScenario, results: Path, commit: str, facts: Mapping[str, object] | None = None
) -> RunWriter:
    """The writer of a new run folder, measured with the code of `commit` on a machine of these `facts` (None: on this
    one). Raises EnvironmentFault."""
    try:
        dyno_version = version("dynamometer")
    except PackageNotFoundError:
        dyno_version = ""
    manifest = RunManifest(
        scenario=resolved.as_dict(),
        digest=resolved.digest,
        machine=machine_facts() if facts is None else facts,
        versions=package_versions(),
        git=commit,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        dyno_version=dyno_version,
        command=tuple(sys.argv),
    )
    return RunWriter.create(results, manifest)


def find_unfinished(resolved: ResolvedScenario, results: Path) -> list[Path]:
    """Runs of the same scenario (digest, model, prompts) whose search did not end on its own, the newest first."""
    folder = runs_root(results, resolved.scenario.name)
    newest_first = sorted(folder.glob("*/run.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    roots = [run_json.parent for run_json in newest_first]
    return [root for root in roots if not RunLayout(root).search_json.exists() and _is_same(root, resolved)]


def finish_run(root: Path, stop: str, reason: str) -> Path:
    """Record that the search ended, and why; returns the file."""
    path = RunLayout(root).search_json
    write_text(path, json.dumps({"stop": stop, "reason": reason}, indent=2) + "\n")
    return path


def _why_other_class(root: Path, machine: Machine) -> str:
    """'' or the facts by which the machine that measured the run in `root` differs from `machine`."""
    stored = read_manifest(root).machine
    return differences(stored, machine.facts) if stored else ""


def _is_same(root: Path, resolved: ResolvedScenario) -> bool:
    try:
        manifest = read_manifest(root)
    except DynoError:
        return False  # a damaged or foreign folder cannot be gone on with; `dyno report` explains what is wrong there
    stored, mine = manifest.scenario.get("resolved"), resolved.as_dict()["resolved"]
    keys = ("model", "prompts_path", "digest")
    return isinstance(stored, dict) and all(stored.get(key) == mine[key] for key in keys)
