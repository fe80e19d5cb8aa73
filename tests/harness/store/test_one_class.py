"""A run folder holds the trials of one machine class, whoever writes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import EnvironmentFault
from harness.measure.machine.machine_class import class_of
from harness.store.reader import read_run
from harness.store.writer import RunWriter
from tests.harness.store.trials import a_manifest, a_trial

FACTS: dict[str, object] = {"cpu_model": "A", "cores": 4}
OWN = class_of(FACTS)


def test_a_trial_of_another_class_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, replace(a_manifest(), machine=FACTS)) as writer:
        writer.append_trial(replace(a_trial(1), machine="m1", machine_class=OWN))
        writer.append_trial(replace(a_trial(2), outcome="skipped"))
        with pytest.raises(
            EnvironmentFault, match=rf"trial .* ran on machine class 0000000000, this run is of class {OWN}"
        ):
            writer.append_trial(replace(a_trial(3), machine="m2", machine_class="0000000000"))
        assert [trial.number for trial in read_run(writer.layout.root).trials] == [1, 2]


def test_a_folder_put_together_from_two_classes_is_not_read(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, replace(a_manifest(), machine=FACTS)) as writer:
        writer.append_trial(replace(a_trial(1), machine="m1", machine_class=OWN))
    path = writer.layout.trials_jsonl
    foreign = {**json.loads(path.read_text()), "machine_class": "0000000000"}
    path.write_text(path.read_text() + json.dumps(foreign) + "\n")
    with pytest.raises(EnvironmentFault, match="values of two classes are never compared"):
        read_run(writer.layout.root)
