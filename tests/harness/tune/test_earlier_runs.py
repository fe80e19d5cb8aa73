"""What earlier runs in the store say of launches here: those of the family and the machine class, as of a moment."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.records import Trial
from harness.store.codec import to_json
from harness.store.formats import RunManifest
from harness.store.layout import RunLayout
from harness.store.writer import RunWriter
from harness.tune.earlier_runs import Place, earlier_spreads
from harness.tune.spreads import Earlier, Squares
from tests.harness.tune.landscape import resolved, scenario
from tests.harness.tune.test_spreads import P50, launches

OF = resolved(scenario())
MACHINE = {"cpu_model": "made", "cpu_flags": ["avx2"], "cores": 2}
HERE = Place(model=OF.model.value, kind=None, machine=MACHINE)
NOON = "2026-11-29T12:00:00+00:00"


def _stored(
    results: Path, trials: Sequence[Trial], *, machine: Any = MACHINE, began: str = NOON, model: str = OF.model.value
) -> Path:
    fields: Any = OF.as_dict()
    fields["resolved"]["model"]["value"] = model
    manifest = RunManifest(scenario=fields, digest=OF.digest, machine=machine, created_utc=began)
    with RunWriter.create(results, manifest) as writer:
        for number, trial in enumerate(trials, 1):
            writer.append_trial(replace(trial, trial_id=f"t{number}", started_utc=began, machine_class=""))
        return writer.layout.root


def _known(results: Path, more: Sequence[Path] = (), here: Place = HERE, before: str = "") -> Earlier:
    return earlier_spreads(results, more, here, P50, ["one"], before=before)


def test_runs_of_this_machine_class_and_model_are_pooled(tmp_path: Path) -> None:
    _stored(tmp_path, launches(0.04))
    _stored(tmp_path, [*launches(0.02), *launches(0.5, "other")])
    _stored(tmp_path, launches(0.5), machine={**MACHINE, "cores": 4})
    _stored(tmp_path, launches(0.5), model="/somewhere/else")
    found = _known(tmp_path)
    assert found == {"one": Squares(total=pytest.approx(4 * 0.04**2 + 4 * 0.02**2), freedom=4, runs=2)}
    assert _known(tmp_path, here=replace(HERE, machine={"cores": 8})) == {}


def test_one_that_began_later_is_not_asked_so_that_a_resumed_search_races_as_before(tmp_path: Path) -> None:
    _stored(tmp_path, launches(0.04), began="2026-11-29T11:00:00+00:00")
    before = _known(tmp_path, before=NOON)
    _stored(tmp_path, launches(0.5))
    _stored(tmp_path, launches(0.5), began="2026-11-29T13:00:00+00:00")
    assert _known(tmp_path, before=NOON) == before
    assert before["one"].runs == 1


def test_a_named_run_from_elsewhere_counts_once_and_a_damaged_one_not_at_all(tmp_path: Path) -> None:
    far, here = _stored(tmp_path / "far", launches(0.04)), tmp_path / "here"
    near = _stored(here, launches(0.04))
    assert _known(here, [far, near])["one"].runs == 2
    RunLayout(near).run_json.write_text("{")
    assert _known(here, [far, near])["one"].runs == 1


def test_the_launch_of_the_written_file_is_one_more(tmp_path: Path) -> None:
    trials = launches(0.04)[:2]
    folder = RunLayout(_stored(tmp_path, trials)).recommendation_dir
    folder.mkdir()
    (folder / "verification.json").write_text(json.dumps({"trial": to_json(replace(trials[0], trial_id="verified"))}))
    found = _known(tmp_path)["one"]
    assert found.freedom == 2
    assert math.sqrt(found.total) == pytest.approx(0.04 * math.sqrt(8 / 3))
