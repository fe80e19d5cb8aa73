"""A recorded landscape as one file, landscape.parquet: a row per launch with its trial and its requests.

What all launches share (scenario, space, machine, commit) is JSON in the file's metadata. Of each request, by its
number, there is when it began after the first one and how long its answer took: milliseconds, float32, NaN where the
answer failed. No path of the machine is in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import EnvironmentFault
from harness.records import Trial
from harness.scenario.schema import Scenario
from harness.space.candidates import BlockPlan, SpacePlan
from harness.store.codec import DecodeError, from_json, to_json
from harness.store.disk import write_whole
from harness.store.reader import trial_from_json
from harness.store.requests_table import read_table, whole
from harness.tune.race_bounds import Floats
from harness.tune.racing import seen
from harness.units import NS_PER_MS
from tests.bench.landscapes.order import ANCHOR, PASSES

FILE = "landscape.parquet"
FORMAT = 1
_ABOUT = b"landscape"
_PATH = re.compile(r"(?<![\w.~])/(?:[\w.+~-]+/)+(?=[\w.+~-])")
"""The folders of an absolute path; its last part is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One launch: its trial, the pass it belongs to (ANCHOR: an anchor), whether it was the first of its engine and
    dtype in the recording, and by request number when each began and how long its answer took (ms, NaN: failed)."""

    trial: Trial
    in_pass: int
    is_cold: bool
    began_ms: Floats
    waited_ms: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """What was recorded: `scenario` and `plan` as they were searched, the facts of the machine, the commit, `planned`
    trials, and the launches so far in the order in which they were made."""

    scenario: Scenario
    plan: SpacePlan
    machine: Mapping[str, Any]
    commit: str
    planned: int
    launches: tuple[Launch, ...]

    @property
    def anchors(self) -> tuple[Launch, ...]:
        """The anchor's launches, in order."""
        return tuple(each for each in self.launches if each.in_pass == ANCHOR)

    @property
    def pairs(self) -> dict[str, tuple[Launch, Launch]]:
        """Candidate id -> its first and its second launch, of all that have both."""
        first, second = (
            {each.trial.candidate.candidate_id: each for each in self.launches if each.in_pass == in_pass}
            for in_pass in PASSES
        )
        return {name: (first[name], second[name]) for name in first if name in second}


def launch_of(trial: Trial, in_pass: int, is_cold: bool, requests: Path) -> Launch:
    """The launch of a stored trial; `requests` are its raw records, where it got that far. Raises EnvironmentFault."""
    began, waited = np.array([]), np.array([])
    records = read_table(requests) if requests.exists() else ()
    if any(not record.is_warmup for record in records):
        found = seen(records, max(record.done_ns for record in records))
        began, waited = (found.began - np.nanmin(found.began)) / NS_PER_MS, found.waited / NS_PER_MS
    return Launch(trial=_plain(trial), in_pass=in_pass, is_cold=is_cold, began_ms=began, waited_ms=waited)


def _plain(trial: Trial) -> Trial:
    """The trial without folders of the machine that ran it."""
    notes = tuple(_PATH.sub("", note) for note in trial.notes)
    return replace(trial, converted_dir="", notes=notes, reason=_PATH.sub("", trial.reason), machine="")


def write(folder: Path, found: Landscape) -> Path:
    """Write the landscape into `folder`, whole or not at all; returns the file. Raises EnvironmentFault."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    blocks = [to_json(replace(block, candidates=())) for block in found.plan.blocks]
    candidates = [to_json(each) for each in found.plan.candidates]
    about = {
        "format": FORMAT, "scenario": found.scenario.model_dump(mode="json", exclude_unset=True), "blocks": blocks,
        "machine": dict(found.machine), "commit": found.commit, "planned": found.planned,
    }  # fmt: skip
    table = pa.table(
        {
            "in_pass": pa.array([each.in_pass for each in found.launches], pa.int8()),
            "is_cold": pa.array([each.is_cold for each in found.launches], pa.bool_()),
            "trial": pa.array([json.dumps(to_json(each.trial)) for each in found.launches], pa.string()),
            **{
                name: pa.array([getattr(each, name).astype(np.float32) for each in found.launches], _floats())
                for name in ("began_ms", "waited_ms")
            },
        },
        metadata={_ABOUT: json.dumps(about).encode(), b"candidates": json.dumps(candidates).encode()},
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    split = dict.fromkeys((f"{name}.list.element" for name in ("began_ms", "waited_ms")), "BYTE_STREAM_SPLIT")

    def fill(partial: Path) -> None:  # floats by their bytes take a third less
        pq.write_table(
            table, partial, compression="zstd", compression_level=19, use_dictionary=["trial"], column_encoding=split
        )

    write_whole(path, fill)
    return path


def _floats() -> Any:
    import pyarrow as pa

    return pa.list_(pa.float32())


def read(folder: Path) -> Landscape:
    """The landscape in `folder`. Raises EnvironmentFault where there is none, or it is damaged or of another format."""
    import pyarrow.parquet as pq

    path = folder / FILE
    with whole(path):
        table = pq.read_table(path)
    metadata: Mapping[bytes, bytes] = table.schema.metadata or {}
    try:
        about = json.loads(metadata[_ABOUT])
        if about["format"] != FORMAT:
            raise EnvironmentFault(f"{path}: expected format {FORMAT}, got {about['format']!r}; record it again")
        return Landscape(
            scenario=Scenario.model_validate(about["scenario"]),
            plan=_plan(about["blocks"], json.loads(metadata[b"candidates"])),
            machine=about["machine"],
            commit=about["commit"],
            planned=about["planned"],
            launches=tuple(_launch(path, number, row) for number, row in enumerate(table.to_pylist())),
        )
    except (KeyError, ValueError, DecodeError) as error:
        raise EnvironmentFault(f"{path}: no landscape that this version reads ({error}); record it again") from error


def _plan(blocks: Sequence[Any], candidates: Sequence[Any]) -> SpacePlan:
    from harness.records import Candidate

    every = tuple(from_json(Candidate, each) for each in candidates)
    return SpacePlan(
        blocks=tuple(
            replace(block, candidates=tuple(each for each in every if each.block == block.block))
            for block in (from_json(BlockPlan, each) for each in blocks)
        ),
        candidates=every,
        pruned=(),
        warnings=(),
    )


def _launch(path: Path, number: int, row: Mapping[str, Any]) -> Launch:
    return Launch(
        trial=trial_from_json(json.loads(row["trial"]), f"{path}: row {number}"),
        in_pass=row["in_pass"],
        is_cold=row["is_cold"],
        began_ms=np.array(row["began_ms"], dtype=np.float64),
        waited_ms=np.array(row["waited_ms"], dtype=np.float64),
    )
