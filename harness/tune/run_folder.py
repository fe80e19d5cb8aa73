"""Which run folder a search writes: a new one, or the newest unfinished one of the same scenario."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.errors import DynoError
from harness.measure.machine.facts import git_commit, machine_facts, package_versions
from harness.records import Trial
from harness.scenario.resolve import ResolvedScenario
from harness.store.disk import write_text
from harness.store.formats import RunManifest
from harness.store.layout import RunLayout, runs_root
from harness.store.reader import read_manifest, read_run
from harness.store.writer import RunWriter
from harness.tune.loop import SearchResult


def open_run(resolved: ResolvedScenario, results: Path, is_new: bool) -> tuple[RunWriter, tuple[Trial, ...]]:
    """The writer of the run, locked, and the trials it already holds. Raises EnvironmentFault when another dyno
    writes it or the disk refuses."""
    unfinished = None if is_new else find_unfinished(resolved, results)
    if unfinished is None:
        return RunWriter.create(results, _manifest(resolved)), ()
    writer = RunWriter.resume(unfinished)
    try:
        return writer, read_run(unfinished).trials
    except BaseException:
        writer.close()
        raise


def find_unfinished(resolved: ResolvedScenario, results: Path) -> Path | None:
    """The newest run of the same scenario (digest, model, prompts) whose search did not end on its own."""
    folder = runs_root(results, resolved.scenario.name)
    for run_json in sorted(folder.glob("*/run.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        root = run_json.parent
        if not RunLayout(root).search_json.exists() and _is_same(root, resolved):
            return root
    return None


def finish_run(root: Path, result: SearchResult) -> Path:
    """Record that the search ended, and why; says where."""
    path = RunLayout(root).search_json
    write_text(path, json.dumps({"stop": result.stop, "reason": result.stop_reason}, indent=2) + "\n")
    return path


def _is_same(root: Path, resolved: ResolvedScenario) -> bool:
    try:
        manifest = read_manifest(root)
    except DynoError:
        return False  # a damaged or foreign folder cannot be gone on with; `dyno report` explains what is wrong there
    stored, mine = manifest.scenario.get("resolved"), resolved.as_dict()["resolved"]
    keys = ("model", "prompts_path", "digest")
    return isinstance(stored, dict) and all(stored.get(key) == mine[key] for key in keys)


def _manifest(resolved: ResolvedScenario) -> RunManifest:
    try:
        dyno_version = version("dynamometer")
    except PackageNotFoundError:
        dyno_version = ""
    return RunManifest(
        scenario=resolved.as_dict(),
        digest=resolved.digest,
        machine=machine_facts(),
        versions=package_versions(),
        git=git_commit(),
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        dyno_version=dyno_version,
        command=tuple(sys.argv),
    )
