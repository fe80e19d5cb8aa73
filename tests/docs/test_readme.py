"""README shows a scenario that is in the tree, numbers of a published run, and pictures that a command drew."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.records import Trial
from harness.report.wording.numbers import metric_text
from harness.scenario.load import load_scenario
from harness.store.reader import trial_from_json
from tests.docs.pictures import PICTURES, data_flow

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PUBLISHED = ROOT / "results" / "published" / "first" / "trials.jsonl"
METRICS = ("latency_p50_ms", "latency_p99_ms", "throughput_rps")


def _rows() -> list[list[str]]:
    """The fastest published trial of every engine, and of t5 in fp32."""
    stored = [json.loads(line) for line in PUBLISHED.read_text(encoding="utf-8").splitlines()]
    trials = [trial_from_json({k: v for k, v in each.items() if k != "format"}, str(PUBLISHED)) for each in stored]
    fastest: dict[Any, Trial] = {}
    for trial in sorted(trials, key=lambda each: each.summary.metrics["latency_p50_ms"].value):  # type: ignore[union-attr]
        candidate = trial.candidate
        fastest.setdefault((candidate.engine, candidate.dtype if candidate.engine == "t5" else ""), trial)
    return [_cells(trial) for trial in fastest.values()]


def _cells(trial: Trial) -> list[str]:
    candidate, summary, quality = trial.candidate, trial.summary, trial.quality
    assert summary is not None
    assert quality is not None
    axes = [candidate.engine, candidate.dtype, str(candidate.batch_size), str(candidate.workers)]
    numbers = [re.sub(r" \(n=\d+\)", "", metric_text(summary.metrics[name])) for name in METRICS]
    return [*axes, *numbers, quality.verdict]


def test_the_scenario_is_the_file_it_names() -> None:
    block = re.search(r"```yaml\n(.*?)```", README, re.S)
    assert block is not None
    path = ROOT / "scenarios" / "first.yaml"
    assert block.group(1) == path.read_text(encoding="utf-8")
    assert len(block.group(1).splitlines()) <= 11
    assert "dyno tune scenarios/first.yaml" in README
    assert sum(len(each.dtype) for each in load_scenario(path).space) == 5


def test_the_five_rows_are_those_of_the_published_run() -> None:
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in README.splitlines() if "Normal |" in line]
    assert rows == _rows()


def test_the_data_flow_is_what_the_command_draws() -> None:
    drawn = (PICTURES / "data-flow.svg").read_text(encoding="utf-8")
    assert drawn == data_flow(), "run: python -m tests.docs.pictures"


@pytest.mark.parametrize("name", ["data-flow.svg", "report.png"])
def test_pictures_are_shown_and_small(name: str) -> None:
    assert f"(results/published/pictures/{name})" in README
    assert 1_000 < (PICTURES / name).stat().st_size < 300_000
