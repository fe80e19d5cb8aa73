"""Bad input: one clear sentence, the documented exit code, nothing half-written, no traceback."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.end_to_end.commands import ROOT, dyno, dyno_here

FAKE = """
name: bad-input
workload: {load: {kind: closed, users: 1}, warmup_requests: 1, requests: 2, max_duration_s: 2}
quality: {prompts: 2}
space: [{engine: fake}]
search: {sampler: grid, trials: 1, max_minutes: 2, seed: 0}
"""


def _tune(folder: Path, text: str) -> tuple[int, str]:
    (folder / "bad.yaml").write_text(text)
    done = dyno_here(["tune", "bad.yaml"], folder)
    assert "Traceback" not in done.stderr + done.stdout
    return done.returncode, done.stderr + done.stdout


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("name: [", 2, "bad.yaml:"),
        ("", 2, "bad.yaml"),
        (FAKE + "name: again\n", 2, "name"),
        (FAKE.replace("warmup_requests", "warmup_request"), 2, "did you mean 'warmup_requests'"),
        (FAKE.replace("[{engine: fake}]", "[]"), 2, "space"),
        (FAKE.replace("engine: fake", "engine: fke"), 2, "fake"),
        (FAKE.replace("engine: fake", "engine: fake, batch_size: 0"), 2, "batch_size"),
        (FAKE.replace("engine: fake", "engine: fake, batch_size: []"), 2, "batch_size"),
        (FAKE + "model: {path: no-such-folder}\n", 2, "bad.yaml:7: model.path"),
    ],
)
def test_a_bad_scenario_is_one_sentence(tmp_path: Path, text: str, code: int, message: str) -> None:
    got, shown = _tune(tmp_path, text)
    assert got == code, shown
    assert message in shown
    assert not list(tmp_path.glob("results/**/trials.jsonl"))


def test_a_command_s_exit_code_and_sentence_are_the_process_s(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: [")
    done = dyno("tune", "bad.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == dyno_here(["tune", "bad.yaml"], tmp_path).stderr


def test_a_truncated_model_is_named_with_its_sizes(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(ROOT / "scenarios" / "assets" / "flan-t5-bench", model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    code, shown = _tune(tmp_path, FAKE.replace("engine: fake", "engine: ctranslate2") + "model: {path: model}\n")
    assert code == 3, shown
    assert "model.safetensors" in shown


def test_a_broken_prompts_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"id": "a", "task": "t", "prompt": "x", "reference": "y"}\n{"id": \n')
    code, shown = _tune(tmp_path, FAKE.replace("workload: {", "workload: {prompts: prompts.jsonl, "))
    assert code == 2, shown
    assert "prompts.jsonl:2" in shown
