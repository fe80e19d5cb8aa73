"""`dyno scenario`, and what `dyno tune` says before it launches anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.main import run

SCENARIOS = Path(__file__).resolve().parents[3] / "scenarios"
QUICKSTART = str(SCENARIOS / "quickstart.yaml")
FAKE = str(SCENARIOS / "smoke" / "fake-tiny.yaml")

HEAVY = ("optuna", "torch", "transformers", "pandas", "pyarrow", "locust", "gevent", "numpy", "starlette", "uvicorn")


def test_check_says_right_with_digest_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scenario", "check", FAKE]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{FAKE}: right; fake-tiny ")
    assert out.endswith(", 4 candidates of fake\n")


def test_check_tells_every_file_and_exits_2_when_one_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: s\nspace: []\n")
    assert run(["scenario", "check", str(wrong), FAKE]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"{wrong}:2: space: expected at least 1 item, got []\n"
    assert captured.out.startswith(f"{FAKE}: right")


def test_check_sees_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scenario", "check", FAKE, "--set", "search.trials=0"]) == 2
    assert capsys.readouterr().err == "--set search.trials=0: search.trials: expected a number >= 1, got 0\n"


def test_show_prints_a_scenario_that_checks_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scenario", "show", QUICKSTART, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["workload"]["request_timeout_s"] == 60.0
    digest = shown.pop("resolved")["digest"]
    assert run(["scenario", "show", QUICKSTART]) == 0
    text = capsys.readouterr().out
    again = tmp_path / "again.yaml"
    again.write_text(text[: text.index("resolved:")].replace("path: assets", f"path: {SCENARIOS}/assets"))
    assert run(["scenario", "show", str(again), "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["space"] == shown["space"]
    assert fields["search"] == shown["search"]
    assert digest in text


def test_schema_is_json_schema_of_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scenario", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["required"]) == {"name", "space"}
    axis = schema["$defs"]["EngineBlock"]["properties"]["batch_size"]
    assert [each["type"] for each in axis["anyOf"]] == ["integer", "array"], "an axis is one value or a list"
    engine = schema["$defs"]["EngineBlock"]["properties"]["engine"]
    assert [each["type"] for each in engine["anyOf"]] == ["string", "array"], "a block may name several engines"
    assert schema["additionalProperties"] is False


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("model", "allowed"),
    [("", ()), (str(SCENARIOS / "assets" / "flan-t5-bench"), ("numpy",))],
    ids=["bundled", "a folder of the user, whose weights' headers safetensors reads by numpy"],
)
def test_checking_imports_nothing_heavy(model: str, allowed: tuple[str, ...], tmp_path: Path) -> None:
    """House style 36: with core dependencies only, and fast; the imports are what costs."""
    overrides = []
    if model:
        (tmp_path / "m").symlink_to(model)
        overrides = ["--set", f"model={{path: {tmp_path / 'm'}}}"]
    code = (
        "import sys; from harness.cli.main import run; "
        f"code = run({['scenario', 'check', QUICKSTART, *overrides]!r}); "
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules and name not in {allowed!r}]; "
        "sys.exit(f'imported {heavy}' if heavy or code else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_dry_run_prints_the_plan_and_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", FAKE, "--dry-run", "--results", str(tmp_path / "results")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"fake-tiny ({FAKE}, digest ")
    assert "candidates 4" in lines
    assert "  fake: 4 (dtype fp32; workers 1, 2; batch_size 1, 4)" in lines
    assert "search     grid, 4 of 4 candidates" in lines
    assert any(line.startswith("expected   4 trials of at most") for line in lines)
    assert not (tmp_path / "results").exists()


def test_dry_run_as_json_lists_what_is_ruled_out_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["--set", "space.0.device=[cpu, cuda]", "--set", "space.0.tensor_parallel_degree=9"]
    assert run(["tune", FAKE, "--dry-run", "--json", *overrides]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["candidates"] == 0
    assert [(each["what"], each["why"]) for each in plan["ruled_out"]] == [
        ("fake tensor_parallel_degree=9", "fake can split over at most 8 here"),
        ("fake device=cuda", "this machine has no cuda that fake can use"),
    ]


@pytest.mark.heavy
def test_the_published_configuration_without_a_gpu_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", str(SCENARIOS / "flan-t5-xxl-g5.yaml"), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["candidates"] + sum(each["candidates"] for each in plan["ruled_out"]) == 18
    assert all(each["why"] for each in plan["ruled_out"])


def test_a_space_of_impossible_candidates_is_one_sentence_and_exit_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    assert run(["tune", FAKE, "--set", "space.0.device=cuda", "--results", str(results)]) == 3
    err = capsys.readouterr().err
    assert err == (
        f"dyno: {FAKE}: space: none of the candidates can be launched on this machine: "
        "fake device=cuda: this machine has no cuda that fake can use; "
        "`dyno doctor` lists what this machine can launch\n"
    )
    assert not results.exists()


def test_a_prompts_file_with_a_broken_line_leaves_no_run_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"id": "a", "task": "t", "prompt": "x", "reference": "y"}\n{"id": "b", "prompt"\n')
    results = tmp_path / "results"
    code = run(["tune", FAKE, "--set", f"workload.prompts={prompts}", "--results", str(results)])
    assert code == 2
    assert capsys.readouterr().err.startswith(f"dyno: {prompts}:2: ")
    assert not results.exists()
