"""`dyno machines`: each machine with how it was last calibrated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import machines
from harness.errors import UsageError
from harness.measure.machine.calibration import MachineOfRun, Ratio
from harness.measure.machine.machine_class import Machine
from harness.store.formats import RunManifest
from harness.store.writer import RunWriter
from tests.harness.places.in_memory_cluster import InMemoryCluster


def test_each_machine_is_shown_with_its_last_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {f"n{number}": Machine(machine_id=f"m{number}", facts={"cores": 8}) for number in (1, 2, 3)}
    cluster = InMemoryCluster(tmp_path, found)

    def opened(address: str, split: int) -> InMemoryCluster:
        cluster.split = split
        return cluster

    monkeypatch.setattr(machines, "open_cluster", opened)
    for value, ranked in ((1.5, "ranked"), (1.02, "set_aside")):
        ratio = Ratio(value=value, low=1.0, high=2.0, launches=3)
        listed = MachineOfRun(machine_id="m1", machine_class="k", ratio=ratio, ranked=ranked, why="")  # type: ignore[arg-type]
        with RunWriter.create(tmp_path / "results", RunManifest(scenario={"name": "s"}, digest="0")) as writer:
            writer.set_machines([listed, MachineOfRun(machine_id="m2", machine_class="k")])
            newest = writer.layout.root.name
    (tmp_path / "results" / "s" / "damaged").mkdir()
    (tmp_path / "results" / "s" / "damaged" / "run.json").write_text("{")
    asked = ["--places", "ray://somewhere:1", "--results", str(tmp_path / "results")]
    shown = json.loads(CliRunner().invoke(machines.command, [*asked, "--json"]).stdout)["machines"]
    last = {each["id"]: each["calibration"] for each in shown}
    assert (last["m1"]["run"], last["m1"]["machine"]["ratio"]["value"]) == (newest, 1.02)
    assert last["m2"]["machine"]["ratio"] is None
    assert last["m3"] is None
    text = " ".join(CliRunner(env={"COLUMNS": "250"}).invoke(machines.command, asked).stdout.split())
    assert f"m1 {found['n1'].machine_class} free 1.020 [1.000, 2.000], 3 launches, not ranked ({newest})" in text
    parts = json.loads(CliRunner().invoke(machines.command, [*asked, "--split", "2", "--json"]).stdout)["machines"]
    assert [each["id"] for each in parts][:3] == ["m1.1of2", "m1.2of2", "m2.1of2"]
    assert {each["class"] for each in parts}.isdisjoint({each["class"] for each in shown})
    refused = CliRunner().invoke(machines.command, [*asked, "--split", "2", "--prepare", "s.yaml"])
    assert isinstance(refused.exception, UsageError)
    assert "--prepare and --split are not combined" in str(refused.exception)
