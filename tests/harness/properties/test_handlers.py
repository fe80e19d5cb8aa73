"""The generated model.py files, run for real: DJL's Python side is stood in for by the two classes they use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from engines.sagemaker.converted import SUMS, sums
from harness.properties.render import Source, render
from tests.harness.choose.runs import candidate, run_of, trial

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[3]
PROMPTS = ["spell: 4071", "date: 3 May 1999", "label: a dull film", "rewrite: the cat sat on the mat", "x", "spell: 12"]


class Input:
    """djl_python.Input as far as a handler uses it: properties, and one JSON body per request of the batch."""

    def __init__(self, bodies: list[Any], properties: dict[str, Any] | None = None) -> None:
        self.bodies = bodies
        self.properties = properties or {}

    def get_properties(self) -> dict[str, Any]:
        return self.properties

    def is_empty(self) -> bool:
        return not self.bodies

    def get_batches(self) -> list[Input]:
        return [Input([body]) for body in self.bodies]

    def get_as_bytes(self) -> bytes:
        return json.dumps(self.bodies[0]).encode()


class Output:
    """djl_python.Output: what was added, by key."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}

    def add_property(self, key: str, value: str) -> None:
        """Not looked at here."""

    def add_as_json(self, value: Any, batch_index: int | None = None) -> None:
        self.answers["" if batch_index is None else f"batch_{batch_index}."] = json.loads(json.dumps(value))


def _files(engine: str) -> dict[str, str]:
    run = run_of()
    made = trial(1, candidate(engine, threads=1, batch_size=4), (20.0, 19.0, 21.0))
    return render(Source(run_name="r", manifest=run.manifest, trial=made), "0.36.0-lmi20")


@pytest.fixture
def djl(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("djl_python")
    module.Input, module.Output = Input, Output  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "djl_python", module)
    monkeypatch.setenv("DYNO_CACHE", os.environ.get("DYNO_CACHE", str(ROOT / ".dyno-cache")))


def _handler(engine: str) -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "model"}
    exec(compile(_files(engine)["model.py"], "model.py", "exec"), scope)
    return scope


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5 of random weights, the same every time, with a tokenizer."""
    from engines.models.random_weights.folders import write_random_model
    from engines.models.random_weights.t5_shapes import T5Shape

    folder = tmp_path_factory.mktemp("tiny-t5")
    shape = T5Shape(d_model=64, d_ff=128, num_heads=3, num_layers=2, d_kv=16, vocab_size=1100)
    write_random_model(folder, shape, 0)
    return folder


def _folder(engine: str, weights: Path, tmp_path: Path) -> Path:
    """A container's model folder: the model's small files, and the engine's own form of the weights."""
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).symlink_to(weights / name)
    cache = Path(os.environ["DYNO_CACHE"])
    if engine == "ctranslate2":
        from engines.models.conversion.ctranslate2_cache import converted

        (tmp_path / "ct2").symlink_to(converted(weights, "float32", cache))
    else:
        from engines.models.conversion.onnx_cache import exported

        (tmp_path / "onnx").symlink_to(exported(weights, "fp32", cache, "onnxruntime"))
    return tmp_path


def _expected(engine: str, weights: Path, texts: list[str], max_new_tokens: int) -> list[str]:
    """What the measured engine itself answers."""
    from engines.api import EngineSpec, GenerateParams, GenerateRequest
    from engines.launching import load_backend
    from engines.models.tokenizer import Tokenizer

    tokenizer, backend = Tokenizer.load(weights), load_backend(engine)
    backend.load(EngineSpec(engine=engine, model_dir=weights, threads=1))
    params = GenerateParams(max_new_tokens=max_new_tokens)
    batch = [GenerateRequest(input_ids=tokenizer.encode(text), params=params) for text in texts]
    found: list[list[int]] = [[] for _ in texts]
    for step in backend.generate(batch):
        for event in step:
            if event.token_id is not None:
                found[event.index].append(event.token_id)
    backend.close()
    return [tokenizer.decode(ids) for ids in found]


@pytest.mark.parametrize("engine", ["ctranslate2", "onnxruntime"])
def test_the_handler_answers_what_the_measured_engine_answers(
    engine: str, djl: None, weights: Path, tmp_path: Path
) -> None:
    pytest.importorskip(engine)
    scope = _handler(engine)
    properties = {
        "model_dir": str(_folder(engine, weights, tmp_path)),
        "dtype": "fp32",
        "threads": "1",
        "device_id": -1,
    }
    assert scope["handle"](Input([], properties)) is None
    long, short = {"max_new_tokens": 24}, {"max_new_tokens": 5}
    bodies = [
        {"inputs": PROMPTS[0], "parameters": long},
        {"inputs": PROMPTS[1:4], "parameters": short},
        {"inputs": PROMPTS[4], "parameters": long},
    ]
    answers = scope["handle"](Input(bodies)).answers
    assert list(answers) == ["batch_0.", "batch_1.", "batch_2."]
    got = list(answers.values())
    expected = _expected(engine, weights, [PROMPTS[0], PROMPTS[4]], 24)
    assert [got[0]["generated_text"], got[2]["generated_text"]] == expected
    assert [item["generated_text"] for item in got[1]] == _expected(engine, weights, PROMPTS[1:4], 5)
    assert any(expected)


@pytest.mark.parametrize("engine", ["ctranslate2", "onnxruntime"])
def test_a_missing_model_is_named(engine: str, djl: None, tmp_path: Path) -> None:
    pytest.importorskip(engine)
    with pytest.raises(FileNotFoundError, match=r"put the (converted model|exported graphs) beside model\.py"):
        _handler(engine)["handle"](Input([], {"model_dir": str(tmp_path)}))


@pytest.mark.parametrize("engine", ["ctranslate2", "onnxruntime"])
def test_weights_elsewhere_are_loaded_if_they_are_the_listed_ones(
    engine: str, djl: None, weights: Path, tmp_path: Path
) -> None:
    """option.model_id's folder as DJL names it; the list of sums lies beside model.py."""
    pytest.importorskip(engine)
    beside, elsewhere = tmp_path / "model", tmp_path / "fetched"
    beside.mkdir()
    elsewhere.mkdir()
    _folder(engine, weights, elsewhere)
    files = {str(path.relative_to(elsewhere)): path for path in elsewhere.glob("*.json")}
    (beside / SUMS).write_bytes(sums(files))
    properties = {"model_dir": str(beside), "model_id": str(elsewhere), "threads": "1", "device_id": -1}
    assert _handler(engine)["handle"](Input([], properties)) is None
    (elsewhere / "config.json").unlink()
    (elsewhere / "config.json").write_text((weights / "config.json").read_text() + " ")
    with pytest.raises(ValueError, match=r"fetched/config\.json: not the file that was uploaded"):
        _handler(engine)["handle"](Input([], properties))


@pytest.mark.parametrize("engine", ["ctranslate2", "onnxruntime"])
def test_the_handler_is_as_tidy_as_our_own_code(engine: str) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--stdin-filename", "model.py", "--ignore", "B905,PLW0603", "-"],
        input=_files(engine)["model.py"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("engine", ["ctranslate2", "onnxruntime"])
def test_workers_share_the_cores_where_the_file_names_no_threads(engine: str, djl: None) -> None:
    """As they did where it was measured; DJL hands its own keys to the handler."""
    pytest.importorskip(engine)
    threads, cores = _handler(engine)["_threads"], len(os.sched_getaffinity(0))
    assert threads({"maxWorkers": "1"}) == cores
    assert threads({"maxWorkers": str(cores)}) == threads({"maxWorkers": str(9 * cores)}) == 1
    assert threads({"maxWorkers": "2", "threads": "3"}) == 3
    assert threads({}) == cores
