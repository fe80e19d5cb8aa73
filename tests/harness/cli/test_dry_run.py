"""What `dyno tune --dry-run` says of a race where something else than this machine sends the load."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from harness.cli import tune
from harness.cli.tune_places import check_goes_elsewhere
from harness.errors import UsageError
from harness.measure.machine.machine_class import Machine
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from tests.harness.tune.landscape import able

SCENARIO = "name: s\nspace: [{engine: fake}]\nsearch: {race: %s}\n"


@contextmanager
def _a_cluster(*about: object) -> Iterator[object]:
    machine = Machine(machine_id="m", facts={"cores_usable": 8, "memory_mib": 1024})
    yield SimpleNamespace(machine=machine, capabilities=able)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "s.yaml"
    found.write_text(SCENARIO % "null")
    return found


@pytest.mark.parametrize("asked", [["--places", "ray://head:1"], ["--expect-workers", "2"]])
def test_a_plan_for_load_from_elsewhere_says_that_nothing_is_raced(
    path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    monkeypatch.setattr(tune, "elsewhere", lambda *about: _a_cluster() if about[0] else _nothing())
    why = f"no trial: a race needs load that this machine sends (here: {asked[0]})"
    printed = CliRunner().invoke(tune.command, [str(path), "--dry-run", *asked], catch_exceptions=False)
    assert f"racing     {why}\n" in printed.output
    as_json = CliRunner().invoke(tune.command, [str(path), "--dry-run", "--json", *asked], catch_exceptions=False)
    assert json.loads(as_json.stdout)["racing"] == why


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def test_a_plan_states_by_how_much_launches_differ_and_from_where_that_is_known(path: Path, tmp_path: Path) -> None:
    command = [str(path), "--dry-run", "--results", str(tmp_path)]
    printed = CliRunner().invoke(tune.command, command, catch_exceptions=False).output
    text = "two launches of fake differ by 5 % (assumed: too few launches were repeated)"
    assert f"by more than launches differ\n           {text}\n" in printed
    as_json = CliRunner().invoke(tune.command, [*command, "--json"], catch_exceptions=False)
    assert json.loads(as_json.stdout)["launches"] == [text]


def test_a_race_that_is_demanded_does_not_go_with_places(path: Path) -> None:
    check_goes_elsewhere(resolve(load_scenario(path), path), "ray://head:1", others={})
    path.write_text(SCENARIO % "true")
    demanded = resolve(load_scenario(path), path)
    check_goes_elsewhere(demanded, None, others={})
    with pytest.raises(UsageError, match=r"search\.race: true and --places are not combined: .*; remove race"):
        check_goes_elsewhere(demanded, "ray://head:1", others={})
