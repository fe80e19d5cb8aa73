"""Export of a compact gate baseline: a run folder small enough to commit beside the code."""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any

from harness.errors import UsageError
from harness.gate.launches import RAW_COLUMNS
from harness.gate.quality_answers import quality_rows
from harness.store.codec import to_json
from harness.store.disk import write_text, write_whole
from harness.store.formats import FORMAT
from harness.store.layout import RunLayout
from harness.store.reader import Run
from harness.store.requests_table import whole


def export_baseline(run: Run, folder: Path) -> tuple[Path, ...]:
    """Write `run` to `folder` as a run folder that `dyno gate --baseline` reads; prints what was written.

    Kept: manifest, trials, answers to the quality prompts, and of each request its user, outcome and times, which
    begin at 0. Left out: answers under load, logs, error texts, absolute paths. Raises UsageError when something is
    there, EnvironmentFault when the disk refuses.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: already there; name a new folder, or remove this one first")
    layout = RunLayout(folder)
    written = []
    for trial in run.trials:
        source = run.layout.requests(trial.trial_id)
        if source.is_file():
            target = layout.requests(trial.trial_id)
            write_whole(target, lambda partial, source=source: _write_times(source, partial))  # type: ignore[misc]
            written.append(target)
        if rows := quality_rows(run.root, trial.trial_id):
            lines = (json.dumps(row) for row in sorted(rows, key=lambda row: row["id"]))
            write_text(layout.outputs(trial.trial_id), "".join(f"{line}\n" for line in lines))
            written.append(layout.outputs(trial.trial_id))
    trials = (json.dumps({"format": FORMAT, **to_json(trial)}, separators=(",", ":")) for trial in run.trials)
    write_text(layout.trials_jsonl, "".join(f"{trial}\n" for trial in trials))
    manifest = {**to_json(run.manifest), "scenario": _without_paths(to_json(run.manifest.scenario)), "command": []}
    write_text(layout.run_json, json.dumps(manifest, indent=2) + "\n")  # last: without it the folder is no run
    return (*written, layout.trials_jsonl, layout.run_json)


def _write_times(source: Path, partial: Path) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with whole(source):
        table = pq.read_table(source, columns=list(RAW_COLUMNS))
    begin = pc.min(table["intended_ns"])
    for name in ("intended_ns", "done_ns", "first_token_ns"):
        shifted = pc.subtract(table[name], begin)
        table = table.set_column(table.schema.get_field_index(name), name, shifted.cast(pa.int64()))
    # Without pandas' schema metadata and with zstd at its best, 200 requests take 4 to 5 kB.
    pq.write_table(table.replace_schema_metadata(None), partial, compression="zstd", compression_level=19)


def _without_paths(scenario: dict[str, Any]) -> dict[str, Any]:
    """Absolute paths shortened to their names: they reveal the path of somebody's checkout, and are compared by
    name."""
    resolved = dict(scenario.get("resolved") or {})
    for key in ("path", "prompts_path", "reference_folder"):
        if isinstance(resolved.get(key), str):
            resolved[key] = PurePath(resolved[key]).name
    model = resolved.get("model")
    if isinstance(model, dict) and model.get("kind") in ("path", "gguf"):
        resolved["model"] = {**model, "value": PurePath(str(model.get("value"))).name}
    return {**scenario, "resolved": resolved}
