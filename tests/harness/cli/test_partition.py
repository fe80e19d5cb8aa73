"""`dyno partition`: a folder that serves, or one sentence and nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engines.serving_properties.read import read_serving
from engines.t5 import load
from harness.cli.main import run
from harness.cli.partition import model_kind

MODEL = Path(__file__).parents[3] / "scenarios" / "assets" / "flan-t5-bench"


@pytest.mark.heavy
def test_a_partition_is_written_with_the_file_that_serves_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "packed"
    assert run(["partition", str(MODEL), "--dtype", "int8", "--tensor-parallel-degree", "2", "--out", str(out)]) == 0
    assert f"Next: dyno serve --properties {out}" in capsys.readouterr().out
    spec = read_serving((out / "serving.properties").read_text(), out).spec
    assert (spec.engine, spec.dtype, spec.tensor_parallel_degree) == ("t5", "int8", 2)

    packed = load(spec.model_dir, dtype=spec.dtype, tensor_parallel_degree=2, threads=1)
    whole = load(MODEL, dtype="int8", threads=1)
    prompt = [[5, 17, 200, 31, 1]]
    assert packed.generate(prompt, max_new_tokens=20) == whole.generate(prompt, max_new_tokens=20)
    packed.close()
    whole.close()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([str(MODEL), "--dtype", "int9"], 3, "dtype"),
        ([str(MODEL), "--tensor-parallel-degree", "3"], 3, "divisor of 4 heads"),
        (["./no-such-model"], 3, "does not exist"),
        ([str(MODEL), "--tensor-parallel-degree", "0"], 2, "tensor-parallel-degree"),
    ],
)
def test_what_cannot_be_packed_is_one_sentence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run(["partition", *arguments, "--out", str(tmp_path / "packed")]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (str(MODEL), "path"),
        ("./nowhere", "path"),
        ("s3://bucket/prefix/", "s3"),
        ("flan-t5-base", "shape"),
        ("google/flan-t5-base", "hub"),
    ],
)
def test_what_a_model_argument_names(model: str, kind: str) -> None:
    assert model_kind(model) == kind


STOPPED = """
import os, signal, sys, time
import engines.t5.partition
from harness.cli.main import run

def stopped(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)

engines.t5.partition._write_shard = stopped
sys.exit(run(["partition", sys.argv[1], "--out", sys.argv[2]]))
"""
"""A partition that gets a signal in the middle: a process of its own, so that no signal can reach the test run."""


@pytest.mark.heavy
def test_a_signal_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STOPPED, str(MODEL), str(tmp_path / "packed")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130, done.stderr
    assert "dyno: interrupted" in done.stderr
    assert list(tmp_path.iterdir()) == []
