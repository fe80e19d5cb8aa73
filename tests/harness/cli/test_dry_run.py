"""What `dyno tune --dry-run` says of a race, also where other machines measure or send the load."""

from __future__ import annotations

import json
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from engines.api import Availability, Capabilities
from harness.cli import tune, tune_places
from harness.cli.tune_places import Elsewhere, check_goes_elsewhere
from harness.measure.machine.machine_class import Machine
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from tests.harness.places.in_memory_cluster import InMemoryCluster
from tests.harness.tune.landscape import able

SCENARIO = "name: s\nspace: [{engine: fake}]\nsearch: {race: %s}\n"
LONG_CONTEXTS = """
name: s
model: {shape: llama-3.1-8b}
space:
- {engine: llamacpp, dtype: bf16, rolling_batch: auto, options: {context: [512, 131072], n_parallel: [1, 2]}}
"""


class There(Elsewhere):
    """A machine of a cluster that can do all that is asked."""

    def capabilities(
        self, engine: str, python: str = "", command: str = "", image: str = ""
    ) -> Capabilities | Availability:
        if engine == "llamacpp":
            return Capabilities(
                effective_dtypes={"bf16": "bf16"},
                options={"context": "", "n_parallel": ""},
                model_kinds=("decoder",),
                has_rolling_batch=True,
            )
        return able(engine, python)


@contextmanager
def _a_cluster(split: int = 1, memories_mib: Set[float] = frozenset({1024.0})) -> Iterator[Elsewhere]:
    machine = Machine(machine_id="m", facts={"cores_usable": 8, "memory_mib": 1024})
    cluster = InMemoryCluster(Path(), {"n": machine})
    cluster.split = split
    yield There(cluster=cluster, machine=machine, nodes={"m": "n"}, memories_mib=memories_mib)


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


@pytest.mark.heavy
@pytest.mark.parametrize(("split", "host"), [(1, "each machine"), (2, "each of the 2 parts of a machine")])
def test_a_plan_for_places_has_the_memory_of_a_machine_there_or_of_a_part_of_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, split: int, host: str
) -> None:
    """8 B parameters whose keys and values of 131,072 tokens need 17.2 GB in 16 bits, of 1,024 MiB that are there."""
    path.write_text(
        "name: s\nmodel: {shape: llama-3.1-8b}\n"
        "space: [{engine: llamacpp, dtype: bf16, rolling_batch: auto,\n"
        "  options: {context: [512, 131072], n_parallel: 1}}]\n"
    )
    monkeypatch.setattr(tune, "elsewhere", lambda *about: _a_cluster(split))
    asked = [str(path), "--dry-run", "--places", "ray://head:1"]
    printed = CliRunner().invoke(tune.command, asked, catch_exceptions=False).output
    assert f"{host} has 1.1 GB: does not fit" in printed
    assert "candidates 1\n" in printed
    assert f"= 17.18 GB, and {host} has 1.1 GB; --no-prune launches it all the same" in printed
    assert (f"{host} is planned with 1,024 MiB, its share, and nothing holds a server to it" in printed) == (split > 1)


@pytest.mark.heavy
def test_what_fits_the_machine_with_the_most_memory_is_kept_and_the_least_is_shown(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Keys and values of 131,072 tokens need 17.2 GB, which one of the two machines has; twice as many neither has."""
    path.write_text(LONG_CONTEXTS)
    facts = ({"cores_usable": 8, "memory_mib": mib} for mib in (1024, 20480))
    machines = {f"n{number}": Machine(machine_id=f"m{number}", facts=each) for number, each in enumerate(facts)}
    monkeypatch.setattr(tune_places, "open_cluster", lambda address, split: InMemoryCluster(tmp_path, machines))
    with tune_places.elsewhere("ray://head:1", None) as found:
        assert found is not None
        memories_mib = found.memories_mib
    monkeypatch.setattr(tune, "elsewhere", lambda *about: _a_cluster(memories_mib=memories_mib))
    asked = [str(path), "--dry-run", "--places", "ray://head:1"]
    printed = CliRunner().invoke(tune.command, asked, catch_exceptions=False).output
    assert "candidates 3\n" in printed
    assert "= 34.36 GB, and each machine has at most 21.5 GB; --no-prune launches it all the same" in printed
    assert "each machine has at least 1.1 GB: does not fit" in printed


def test_a_machine_that_joins_has_a_plan_of_its_memory_alone(path: Path) -> None:
    path.write_text(LONG_CONTEXTS)
    resolved = resolve(load_scenario(path), path)
    with _a_cluster() as there:
        plan_for = tune._plan_for(resolved, there, prunes=True)
        assert plan_for is not None
        assert [plan_for(mib).size for mib in (1024.0, 20480.0, 40960.0)] == [2, 3, 4]
        assert tune._plan_for(resolved, there, prunes=False) is None


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
