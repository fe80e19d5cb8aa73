"""A machine that a file describes: what is read and refused, and what a plan for it rules out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import tune
from harness.errors import ScenarioError, UsageError
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.space.candidates import SpacePlan
from harness.space.machine_file import read_machine
from harness.space.memory_text import memory_lines

ROOT = Path(__file__).resolve().parents[3]
H100 = ROOT / "scenarios/assets/machines/h100.yml"
MISTRAL = ROOT / "scenarios/mistral-7b-h100.yaml"
BARE = "name: small\ncores: 2\nmemory_gib: 4\n"


def _plan(path: Path, *options: str) -> str:
    result = CliRunner().invoke(tune.command, [str(path), *options], catch_exceptions=False, standalone_mode=False)
    return result.output


def test_a_search_is_planned_for_a_machine_that_is_not_here() -> None:
    printed = _plan(MISTRAL, "--dry-run", "--machine", str(H100))
    assert "machine    h100: 16 cores, 256 GiB, 1 x H100 with 80 GiB, 8.5 USD/h; its engines were not asked" in printed
    assert "candidates 24\n" in printed
    assert "H100 of h100 has 85.9 GB: fits" in printed
    assert "at 8.5 USD/h (the description of h100)" in printed
    as_json = json.loads(_plan(MISTRAL, "--dry-run", "--machine", str(H100), "--json"))
    assert as_json["machine"]["gpu"] == "H100"
    assert as_json["expected"]["minutes_8_of_10"] is None


def test_what_the_described_machine_has_not_is_ruled_out_with_that_reason(tmp_path: Path) -> None:
    small = tmp_path / "small.yml"
    small.write_text(BARE)
    printed = _plan(MISTRAL, "--dry-run", "--machine", str(small))
    assert "vllm device=cuda (24): small has 0 GPUs" in printed
    assert "nothing is left to measure" in printed


def test_rows_in_memory_are_no_more_than_the_load_asks_at_once() -> None:
    few = load_scenario(MISTRAL, ["workload.load.users=1"])
    nothing = SpacePlan(blocks=(), candidates=(), pruned=(), warnings=())
    lines = list(memory_lines(resolve(few, MISTRAL), nothing, read_machine(H100)))
    assert any("(1 rows x " in line for line in lines)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("cores: 2\nmemory_gib: 4\n", "name: expected a value, got nothing; this key is required"),
        (
            f"{BARE}gpu_memory: 80\n",
            "4: gpu_memory: expected a known key, got 'gpu_memory'; did you mean 'gpu_memory_gib'?",
        ),
        (f"{BARE}gpus: 1\n", "expected gpus, gpu and gpu_memory_gib together, or none of them, got 'gpus: 1, gpu: "),
        (BARE.replace("4", "0"), "3: memory_gib: expected a number > 0, got 0"),
        ("- 1\n", ":1: expected 'key: value' lines (name, cores, memory_gib, gpus, gpu, gpu_memory_gib, usd_per_hour)"),
        ("name: [\n", "m.yml:"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_its_line(tmp_path: Path, text: str, wrong: str) -> None:
    path = tmp_path / "m.yml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as refused:
        read_machine(path)
    assert wrong in str(refused.value)


def test_nothing_is_launched_for_a_described_machine() -> None:
    with pytest.raises(UsageError, match="nothing is launched there; add --dry-run"):
        _plan(MISTRAL, "--machine", str(H100))
    with pytest.raises(UsageError, match="--machine and --places are not combined"):
        _plan(MISTRAL, "--dry-run", "--machine", str(H100), "--places", "ray://head:1")
