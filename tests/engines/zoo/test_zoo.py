"""Every engine over the zoo: tokens and scores are the float64 reference's, or one sentence says why not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engines.launching import serving_python
from tests.engines.zoo.layouts import LAYOUTS, Layout, write

pytestmark = pytest.mark.heavy

SERVED = {"onnxruntime": ("t5-v1.0", "umt5"), "openvino": ("t5-v1.0", "umt5"), "deepspeed": ("umt5",)}
"""Engines that serve these alone, and refuse what is to be refused: exporting graphs takes seconds a folder, and
DeepSpeed's process group is made once in a process. All read folders as transformers does."""

PROMPTS = [[1], [7, 1], [5, 9, 44, 3, 101, 17, 1], [*(3 + number % 90 for number in range(35)), 1]]
"""One of nothing but the end, as invisible text is, beside others."""

TOLERANCE = 1e-3


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("zoo")
    for number, layout in enumerate(LAYOUTS.values()):
        write(layout, root / str(number))
    return root


@pytest.mark.parametrize(
    "engine", ["t5", "transformers", "accelerate", "ctranslate2", "onnxruntime", "openvino", "deepspeed"]
)
def test_every_layout_is_served_right_or_refused_in_one_sentence(engine: str, zoo: Path, tmp_path: Path) -> None:
    python = serving_python(engine, None)
    if engine == "deepspeed" and python is None:
        pytest.skip("deepspeed has no environment here: dyno engine install deepspeed")
    if engine == "openvino":
        pytest.importorskip("openvino")
    asked = {name: layout for name, layout in LAYOUTS.items() if _is_asked(engine, name)}
    folders = {name: str(zoo / str(number)) for number, name in enumerate(LAYOUTS) if name in asked}

    answers = _answers(str(python or sys.executable), {"engine": engine, "folders": folders, "prompts": PROMPTS}, zoo)

    assert set(answers) == set(asked)
    faults = {name: fault for name, answer in answers.items() if (fault := _fault(engine, asked[name], answer))}
    assert faults == {}


def _is_asked(engine: str, name: str) -> bool:
    is_refused_unread = LAYOUTS[name].refused != "" and not (engine == "deepspeed" and LAYOUTS[name].form == "bin")
    return engine not in SERVED or name in SERVED[engine] or is_refused_unread


def _answers(python: str, request: dict[str, Any], zoo: Path) -> dict[str, Any]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "DYNO_CACHE": str(zoo.parent / "zoo-cache")}
    done = subprocess.run(
        [python, "-W", "ignore", "-m", "tests.engines.zoo.ask"],
        input=json.dumps(request), capture_output=True, text=True, env=env, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"layout"')]
    return {line["layout"]: line for line in lines}


def _fault(engine: str, layout: Layout, answer: dict[str, Any]) -> str:
    """What is wrong with an engine's answer; '' where nothing is."""
    refusal = layout.refused or layout.refused_by.get(engine, "")
    if "error" in answer:
        is_one_sentence = answer["error"] == "ModelInvalid" and "\n" not in answer["message"]
        fits = bool(refusal) and re.search(refusal, answer["message"]) is not None
        return "" if fits and is_one_sentence else f"{answer['error']}: {answer['message']}"
    if refusal:
        return "served"
    if layout.note and not any(layout.note in note for note in answer["notes"]):
        return f"no note of {layout.note!r}"
    if answer["ended"] != list(range(len(PROMPTS))):
        return f"ended: {answer['ended']}"
    truth = layout.truth()
    for ids, found in zip(PROMPTS, answer["answers"], strict=True):
        tokens = [token for token, _ in found]
        expected = truth.greedy(ids, 8)
        if tokens != expected:
            return f"{tokens} instead of {expected}"
        scores = truth.log_probabilities(ids, tokens)
        error = max(abs(logprob - scores[place, token]) for place, (token, logprob) in enumerate(found))
        if error > TOLERANCE:
            return f"log-probabilities are off by {error:.2g}"
    return ""
