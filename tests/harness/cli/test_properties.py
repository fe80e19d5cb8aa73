"""`dyno properties`: lint, diff, migrate, env, keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli.main import run as dyno

FT = (
    "engine=FasterTransformer\noption.model_id=google/flan-t5-xxl\noption.tensor_parallel_degree=4\noption.dtype=fp32\n"
)


def _file(folder: Path, text: str, name: str = "serving.properties") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_lint_prints_file_line_and_message_and_exits_1_on_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "serving.properties"
    path.write_text("engine=MPI\noption.rolling_batch=lmi - dist\n")
    assert dyno(["properties", "lint", str(path), "--container", "0.26.0"]) == 1
    assert f"{path}:2: error: option.rolling_batch:" in capsys.readouterr().out
    path.write_text("engine=MPI\noption.rolling_batch=lmi-dist\n")
    assert dyno(["properties", "lint", str(path), "--container", "0.26.0"]) == 0
    clean, *meaning = capsys.readouterr().out.splitlines()
    assert clean == f"{path}: clean"
    assert meaning[0] == "there: waiting requests are served first in, first out (read in its source)"
    assert dyno(["properties", "lint", str(path), "--container", "0.26.0", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["meaning"]) == 3


def test_lint_reads_the_model_beside_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "serving.properties"
    path.write_text("engine=Python\noption.rolling_batch=vllm\noption.tensor_parallel_degree=4\n")
    assert dyno(["properties", "lint", str(path), "--container", "0.35.0"]) == 0
    capsys.readouterr()
    (tmp_path / "config.json").write_text('{"model_type": "t5", "num_heads": 6}')
    assert dyno(["properties", "lint", str(path), "--container", "0.35.0"]) == 1
    out = capsys.readouterr().out
    assert "vLLM does not serve T5" in out
    assert "4 does not divide the model's 6 heads; possible: 1, 2, 3, 6" in out


def test_lint_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "serving.properties"
    path.write_text("engine=Python\nbatchsize=4\n")
    assert dyno(["properties", "lint", str(path), "--container", "0.28.0", "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["line"], finding["key"], finding["severity"]) == (2, "batchsize", "error")


def test_lint_of_a_missing_file_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dyno(["properties", "lint", str(tmp_path / "none")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_lint_accepts_t5_in_a_recent_container_once_transformers_is_pinned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "engine=Python\noption.entryPoint=djl_python.huggingface\n"
        "option.rolling_batch=disable\noption.model_id=google/flan-t5-xl\n"
    )
    path = _file(tmp_path, text)
    assert dyno(["properties", "lint", str(path), "--container", "0.36.0-lmi27"]) == 1
    assert "put a requirements.txt with transformers>=4.57,<5" in capsys.readouterr().out
    _file(tmp_path, "transformers>=4.57,<5\n", "requirements.txt")
    assert dyno(["properties", "lint", str(path), "--container", "0.36.0-lmi27"]) == 0


def test_a_retired_engine_is_refused_with_what_replaces_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(tmp_path, FT)
    assert dyno(["properties", "migrate", str(path), "--from", "0.24.0", "--to", "0.36.0-lmi20"]) == 2
    message = capsys.readouterr().err
    assert "engine=FasterTransformer: last container 0.24.0" in message
    assert "djl_python.huggingface" in message
    assert "--replace-engine" in message


def test_migration_replaces_on_request_and_the_result_is_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = _file(tmp_path, FT), tmp_path / "out"
    argv = ["properties", "migrate", str(path), "--from", "0.24.0", "--to", "0.36.0-lmi27", "--replace-engine"]
    assert dyno([*argv, "--out", str(out)]) == 0
    message = capsys.readouterr().err
    assert "changed: engine: FasterTransformer -> Python" in message
    assert "option.rolling_batch=disable" in (out / "serving.properties").read_text()
    assert (out / "requirements.txt").read_text() == "transformers>=4.57,<5\n"
    assert dyno(["properties", "lint", str(out / "serving.properties"), "--container", "0.36.0-lmi27"]) == 0


def test_diff_of_two_files_and_of_two_containers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (
        _file(tmp_path, "batch_size=1\nengine=MPI\n", "one"),
        _file(tmp_path, "batch_size : 4\nengine=MPI\n", "two"),
    )
    assert dyno(["properties", "diff", str(one), str(two)]) == 1
    assert capsys.readouterr().out == "~ batch_size: 1 -> 4\n"
    assert dyno(["properties", "diff", str(one), str(one)]) == 0
    assert capsys.readouterr().out == "no difference\n"
    assert dyno(["properties", "diff", "0.24.0", "0.27.0"]) == 1
    shown = capsys.readouterr().out
    assert "- engine=FasterTransformer: accepted" in shown
    assert "+ option.rolling_batch=disable: accepted" in shown
    assert "- option.s3url: str  (python)" in shown
    assert dyno(["properties", "diff", str(one), "0.24.0"]) == 2
    assert "expected two files or two container versions" in capsys.readouterr().err


def test_env_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(
        tmp_path, "engine=Python\njob_queue_size=50\noption.entryPoint=djl_python.huggingface\noption.dtype=bf16\n"
    )
    assert dyno(["properties", "env", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines() == [
        "SERVING_LOAD_MODELS=test::Python=/opt/ml/model", "SERVING_JOB_QUEUE_SIZE=50",
        "OPTION_ENTRYPOINT=djl_python.huggingface", "OPTION_DTYPE=bf16",
    ]  # fmt: skip
    variables = _file(tmp_path, shown + "PATH=/bin\n", "container.env")
    assert dyno(["properties", "env", str(variables), "--reverse"]) == 0
    back = capsys.readouterr()
    assert back.out == path.read_text()
    assert "PATH: not the container's; left out" in back.err
    assert dyno(["properties", "env", str(path), "--json"]) == 0
    as_json = _file(tmp_path, capsys.readouterr().out, "env.json")
    assert dyno(["properties", "env", str(as_json), "--reverse"]) == 0
    assert capsys.readouterr().out == path.read_text()


def test_keys_lists_type_range_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert dyno(["properties", "keys", "0.24.0"]) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert ["job_queue_size", "server", "int >= 1, default 1000"] in lines
    assert not [line for line in lines if line[0] == "option.lmcache_auto_config"]
    assert dyno(["properties", "keys", "0.99.0"]) == 2
    assert "unknown container '0.99.0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("broken\n", "container.env:1: expected NAME=VALUE"), ('{"A": 1}', "A: expected a string, got 1"), ("{", "JSON")],
)
def test_variables_that_cannot_be_read_are_one_sentence(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dyno(["properties", "env", str(_file(tmp_path, text, "container.env")), "--reverse"]) == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert len(message.strip().splitlines()) == 1


def test_steps_and_files_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(tmp_path, "engine=Python\noption.s3url=s3://b/m/\noption.load_in_8bit=true\n")
    assert dyno(["properties", "migrate", str(path), "--from", "0.26.0", "--to", "0.30.0", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert {(step["key"], step["action"]) for step in answer["steps"]} == {
        ("option.s3url", "dropped"), ("option.model_id", "added"),
        ("option.load_in_8bit", "dropped"), ("option.quantize", "added"),
    }  # fmt: skip
    assert "bitsandbytes needs option.device_map" in answer["findings"][0]["message"]
