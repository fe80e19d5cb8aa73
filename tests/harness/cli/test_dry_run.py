"""What `dyno tune --dry-run` says of a race, also where other machines measure or send the load."""

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


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (
            ["--places", "ray://head:1"],
            "a trial ends early once it is surely worse in latency_p50_ms than the best so far",
        ),
        (
            ["--expect-workers", "2"],
            "no trial: a race needs load from the machine that serves (here: --expect-workers)",
        ),
    ],
)
def test_a_plan_says_that_places_race_and_load_from_other_hosts_does_not(
    path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str], expected: str
) -> None:
    monkeypatch.setattr(tune, "elsewhere", lambda *about: _a_cluster() if about[0] else _nothing())
    printed = CliRunner().invoke(tune.command, [str(path), "--dry-run", *asked], catch_exceptions=False)
    assert f"racing     {expected}" in printed.output
    as_json = CliRunner().invoke(tune.command, [str(path), "--dry-run", "--json", *asked], catch_exceptions=False)
    assert json.loads(as_json.stdout)["racing"].startswith(expected)


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


def test_a_race_that_is_demanded_goes_with_places(path: Path) -> None:
    path.write_text(SCENARIO % "true")
    check_goes_elsewhere(resolve(load_scenario(path), path), "ray://head:1", others={})
