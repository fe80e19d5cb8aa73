"""Every scenario file of the repository is right, and says what its name promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.launching import load_engine
from engines.registry import traits
from harness.report.content.published_row import published
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.space.check_files import check_files
from harness.space.plan_text import expectation

FOLDER = Path(__file__).resolve().parents[2] / "scenarios"
FILES = sorted(FOLDER.rglob("*.yaml"))


def _case(path: Path) -> Any:
    """The options of an engine with its own server are checked by asking that."""
    asks = any(traits(block.engine).has_start_file and block.options for block in load_scenario(path).space)
    return pytest.param(path, id=str(path.relative_to(FOLDER)), marks=[pytest.mark.heavy] if asks else [])


@pytest.mark.parametrize("path", [_case(path) for path in FILES])
def test_every_scenario_file_is_right(path: Path) -> None:
    scenario = load_scenario(path)
    check_files(resolve(scenario, path))
    folder = f"{path.parent.name}-" if path.parent.name in ("inferencebench", "landscapes") else ""
    assert scenario.name == folder + path.stem.replace(".", "-")
    assert scenario.description
    assert path.read_text().startswith("# "), "the header states the question"


def test_quickstart_spans_what_it_promises_within_its_five_minutes() -> None:
    scenario = load_scenario(FOLDER / "quickstart.yaml")
    assert {block.engine for block in scenario.space} >= {"t5", "transformers", "ctranslate2", "onnxruntime"}
    assert all(len(block.dtype) >= 2 and block.workers == (1, 2) for block in scenario.space)
    static = [block for block in scenario.space if block.rolling_batch == ("disable",)]
    assert all((min(block.batch_size), max(block.batch_size)) == (1, 8) for block in static)
    assert scenario.search.max_minutes <= 4
    assert expectation(scenario, 84).total_s <= 4 * 60


@pytest.mark.heavy
def test_the_published_configuration_is_the_first_candidate() -> None:
    scenario = load_scenario(FOLDER / "flan-t5-xxl-g5.yaml")
    block = scenario.space[0]
    assert scenario.model is not None
    assert scenario.model.hub == "google/flan-t5-xxl"
    row = published()["row"]
    assert str(block.dtype[0]) == row["Quantization"]
    assert str(block.tensor_parallel_degree[0]) == row["Tensor parallel degree"]
    assert [str(size) for size in block.batch_size] == [row["Batch size"]]
    assert [str(workers) for workers in block.workers] == [row["Workers"]]
    assert block.device == ("cuda",)
    assert set(block.tensor_parallel_degree) == {1, 2, 4}
    assert scenario.workload.inputs_per_request == 4
    for each in scenario.space:
        hardware = load_engine(each.engine).capabilities().features["hardware"]
        assert "NVIDIA GPU" in hardware, f"{each.engine} cannot run the published configuration anywhere: {hardware}"


def test_the_decoders_quickstart_spans_the_servers_within_its_ten_minutes() -> None:
    scenario = load_scenario(FOLDER / "quickstart-decoder.yaml")
    engines = {block.engine for block in scenario.space}
    assert engines == {"transformers", "llamacpp", "vllm", "openvino", "ctranslate2"}
    assert scenario.search.max_minutes <= 8
    assert expectation(scenario, 40).total_s <= 8 * 60


def test_the_choices_of_inferencebench_are_twenty_with_ten_options_and_one_letter() -> None:
    lines = (FOLDER / "inferencebench" / "choice.jsonl").read_text(encoding="utf-8").splitlines()
    choices = [json.loads(line) for line in lines]
    assert len(choices) == 20
    for choice in choices:
        options = [line for line in choice["prompt"].splitlines() if line[1:3] == ". "]
        assert [line[0] for line in options] == list("ABCDEFGHIJ")
        assert len({line[3:] for line in options}) == 10
        assert choice["reference"] in "ABCDEFGHIJ"
    assert len({choice["reference"] for choice in choices}) > 5
