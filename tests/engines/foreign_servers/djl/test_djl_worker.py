"""Every handler of ours under DJL Serving's real Python worker: loading, single requests, batches and refusals."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import engines.t5 as t5
from engines.api import EngineSpec
from engines.foreign_servers.carried_weights import CONVERSIONS
from engines.foreign_servers.djl.folder import backend_spec, write_djl_folder
from engines.foreign_servers.djl.messages import Answered, message, read_answer
from engines.models.random_weights.folders import write_random_model
from engines.models.random_weights.t5_shapes import T5Shape
from engines.models.tokenizer import Tokenizer
from harness.choose.recommendation import choose
from harness.properties.render import Source, render
from harness.properties.write import write_recommendation
from harness.store.reader import read_run
from tests.engines.foreign_servers.djl.djl_worker import CACHE, VERSIONS, djl_worker, jar
from tests.harness.choose.runs import candidate, run_of, store, trial

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[4]
MODEL_DIR = ROOT / "scenarios" / "assets" / "flan-t5-bench"
FRAMES = {
    frame["name"]: frame
    for frame in json.loads(Path(__file__).with_name("recorded").joinpath("worker_frames.json").read_text())
}
TASKS = [json.loads(line) for line in MODEL_DIR.with_name("prompts").joinpath("tasks.jsonl").read_text().splitlines()]
HANDLERS = ("t5", "ctranslate2", "onnxruntime", "fake", "ctranslate2_model", "onnxruntime_model")
"""Engine djl's backends, and the model.py files that `dyno recommend` writes for AWS's containers."""
KNOWS_THE_ANSWERS = ("t5",)
"""Served with the bundled model; the others with a tiny one of random weights."""
FROM_THE_SERVER = {
    "job_queue_size": "20", "maxWorkers": "2", "batch_size": "4", "batchifier": "stack", "engine": "Python",
    "max_batch_delay": "400", "entryPoint": "model.py", "minWorkers": "2", "load_on_devices": "-1", "dtype": "fp32",
    "pythonExecutable": "/usr/bin/python", "max_rolling_batch_size": "32", "pipeline_parallel_degree": "1",
    "cluster_size": "1", "retry_threshold": "3", "model_loading_timeout": "1200", "a_key_of_next_year": "1",
}  # fmt: skip
BAD = (b"{bad", b"\xff\xfe", b"", b"[]", b'{"inputs": 5}', b'{"inputs": []}', b'{"inputs": ["a", 5]}', b"{}",
       b'{"inputs": "a", "parameters": []}', b'{"inputs": "a", "parameters": {"max_new_token": 1}}',
       b'{"inputs": "a", "stream": true}', b'{"inputs": "a", "parameters": {"max_new_tokens": "four"}}')  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The model folder of a handler, written at first use."""

    @cache
    def written(handler: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DYNO_CACHE", os.environ.get("DYNO_CACHE", str(ROOT / ".dyno-cache")))
            engine, _, is_recommended = handler.partition("_")
            if engine in ("ctranslate2", "onnxruntime"):
                pytest.importorskip(engine)
            model = MODEL_DIR if engine in KNOWS_THE_ANSWERS else _tiny(tmp_path_factory.mktemp("tiny"))
            options = {"backend": engine}
            spec = EngineSpec(engine="djl", model_dir=model, batch_size=4, threads=1, workers=2, options=options)
            path = tmp_path_factory.mktemp(handler) / "model"
            write_djl_folder(backend_spec(spec), path, links_weights=True)
            if not is_recommended:
                return path
            for name, text in _recommended(engine).items():
                (path / name).write_text(text)
            return path

    return written


def _tiny(folder: Path) -> Path:
    """The model of test_handlers.py, whose conversions are in the cache already; converting the bundled one takes
    minutes of torch."""
    folder.mkdir(exist_ok=True)
    write_random_model(folder, T5Shape(d_model=64, d_ff=128, num_heads=3, num_layers=2, d_kv=16, vocab_size=1100), 0)
    return folder


def _recommended(engine: str) -> dict[str, str]:
    made = trial(1, candidate(engine, threads=1, batch_size=4), (20.0, 19.0, 21.0))
    return render(Source(run_name="r", manifest=run_of().manifest, trial=made), "0.36.0-lmi20")


def _body(prompt: str | list[str], **parameters: Any) -> bytes:
    return json.dumps({"inputs": prompt, "parameters": {"max_new_tokens": 64, **parameters}}).encode()


def _texts(body: bytes) -> str | list[str]:
    found = json.loads(body)
    return [each["generated_text"] for each in found] if isinstance(found, list) else found["generated_text"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("handler", HANDLERS)
def test_a_batch_is_answered_request_by_request(
    handler: str, version: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    jar(version)
    prompts = [task["prompt"] for task in TASKS[:4]]
    with djl_worker(version, folder(handler), tmp_path) as worker:
        loaded = worker.load(FROM_THE_SERVER)
        assert (loaded.code, loaded.content) == (204, []), loaded
        alone = [worker.ask([("data", _body(prompt))]) for prompt in prompts]
        assert [(each.code, _content_type(each)) for each in alone] == [(200, "application/json")] * 4, alone
        if not handler.endswith("_model"):
            counted = [_counts(json.loads(each.bodies(1)[0])) for each in alone]
            headers = [(each.properties["x-dyno-tokens"], each.properties["x-dyno-input-tokens"]) for each in alone]
            assert [tuple(map(str, pair)) for pair in counted] == headers
        texts = [_texts(each.bodies(1)[0]) for each in alone]
        assert len(set(texts)) > 1, texts
        if handler in KNOWS_THE_ANSWERS:
            assert texts == [task["reference"] for task in TASKS[:4]]

        together = worker.ask(
            [("x", b"1"), ("data", _body(prompts[0]))],  # a query string becomes an entry of the content
            [("data", b"{bad")],
            [("data", _body(prompts[1:3]))],
            [("data", _body(prompts[3], num_beams=1)), ("x", b"1")],
        )
        assert (together.code, _content_type(together)) == (200, "application/json")
        one, refused, two, last = together.bodies(4)
        assert [_texts(one), _texts(two), _texts(last)] == [texts[0], texts[1:3], texts[3]]
        assert json.loads(refused)["code"] == 400
        if not handler.endswith("_model"):
            assert "x-dyno-tokens" not in together.properties, "one header for the whole batch would be wrong"
            assert _counts(json.loads(one)) == counted[0]
        assert "not JSON" in json.loads(refused)["message"]

        for bad in BAD:
            wrong = worker.ask([("data", bad)])
            assert (wrong.code, _content_type(wrong)) == (400, "application/json"), (bad, wrong)
            pair = worker.ask([("data", bad)], [("data", _body(prompts[0]))])
            assert pair.code == 200
            first, second = pair.bodies(2)
            assert json.loads(first)["type"] == "RequestInvalid", (bad, first)
            assert _texts(second) == texts[0]
    assert not (tmp_path / CACHE).exists(), "nothing is converted where the folder is served"


@pytest.mark.parametrize("engine", ["t5", "ctranslate2", "onnxruntime", "openvino"])
def test_a_recommended_folder_is_whole(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the folder, and nothing is converted there: the answers are those of the model that was measured."""
    jar("0.34.0")
    monkeypatch.setenv("DYNO_CACHE", os.environ.get("DYNO_CACHE", str(ROOT / ".dyno-cache")))
    if engine != "t5":
        pytest.importorskip(engine)
    model = _tiny(tmp_path / "tiny")
    spec = EngineSpec(engine=engine, model_dir=model, threads=1)
    made = str(CONVERSIONS[engine](spec).made) if engine in CONVERSIONS else ""
    measured = trial(1, candidate(engine, threads=1, batch_size=4), (20.0, 19.0, 21.0), converted_dir=made, versions={})
    resolved = {"model": {"kind": "path", "value": str(model), "seed": 0}}
    run = read_run(store(tmp_path / "results", [measured], resolved=resolved))
    written = write_recommendation(run, choose(run), "0.36.0-lmi20", tmp_path / "out")
    shutil.rmtree(model)
    prompts = [task["prompt"] for task in TASKS[:3]]
    with djl_worker("0.34.0", written.properties_path.parent, tmp_path) as worker:
        assert worker.load(FROM_THE_SERVER).code == 204
        together = worker.ask(*([("data", _body(prompt, max_new_tokens=8))] for prompt in prompts))
    texts = [_texts(body) for body in together.bodies(3)]
    assert (together.code, texts) == (200, _expected(_tiny(tmp_path / "again"), prompts, 8))
    assert not (tmp_path / CACHE).exists(), "nothing is converted where the folder is served"


def _expected(model: Path, prompts: list[str], max_new_tokens: int) -> list[str]:
    tokenizer, engine = Tokenizer.load(model), t5.load(model, threads=1)
    ids = [list(tokenizer.encode(prompt)) for prompt in prompts]
    answers = engine.generate(ids, max_new_tokens=max_new_tokens)
    engine.close()
    return [tokenizer.decode(each) for each in answers]


def _counts(answer: dict[str, Any]) -> tuple[int, int]:
    return answer["details"]["generated_tokens"], answer["details"]["input_tokens"]


def _content_type(answered: Answered) -> str:
    return {key.lower(): value for key, value in answered.properties.items()}.get("content-type", "")


def test_our_messages_are_the_recorded_ones() -> None:
    """So that what drives the older workers differs in the width of texts alone."""
    recorded = base64.b64decode(FRAMES["three, the first with a query string"]["server"])
    properties, content = _parsed(recorded)
    assert message(properties, content, (0, 36, 0)) == recorded
    assert [key for key, _ in content] == ["batch_000.x", "batch_000.data", "batch_001.data", "batch_002.data"]


@pytest.mark.parametrize(
    ("name", "code", "bodies"),
    [
        ("load", 204, [b""]), ("one", 200, [b"sent"]), ("three", 200, [b"a", b"b", b"c"]),
        ("stream", 200, [b'{"token": 0}\n{"token": 1}\n{"token": 2}\n']), ("raise", 424, [b"a bad request"]),
    ],
)  # fmt: skip
def test_recorded_answers_are_read(name: str, code: int, bodies: list[bytes]) -> None:
    async def read() -> Answered:
        stream = asyncio.StreamReader()
        stream.feed_data(base64.b64decode(FRAMES[name]["worker"]))
        return await read_answer(stream, (0, 36, 0))

    answered = asyncio.run(read())
    assert answered.code == code
    for body, expected in zip(answered.bodies(len(bodies)), bodies, strict=True):
        assert expected in body


def _parsed(data: bytes) -> tuple[dict[str, str], list[tuple[str, bytes]]]:
    at = 0

    def take(layout: str) -> int:
        nonlocal at
        at += struct.calcsize(layout)
        return int(struct.unpack(layout, data[at - struct.calcsize(layout) : at])[0])

    def body() -> bytes:
        nonlocal at
        length = take(">i")
        at += length
        return data[at - length : at]

    properties = {body().decode(): body().decode() for _ in range(take(">h"))}
    content = [(body().decode(), body()) for _ in range(take(">h"))]
    assert at == len(data)
    return properties, content


RECORDED = {
    "one": (200, "a"), "one, query string": (200, "a"), "one, no body": (400, "-"), "one, form": (400, "-"),
    "three": (200, "abc"), "three, the first with a query string": (200, "abc"),
    "three, the second without a body": (200, "a-c"), "stream": (400, "-"), "raise": (400, "-"),
}  # fmt: skip
"""Recorded message -> the worker's status, and which request each answer belongs to (-: a refusal)."""


@pytest.mark.parametrize("handler", HANDLERS)
def test_recorded_bytes_are_answered(handler: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    jar("0.34.0")
    assert set(RECORDED) | {"load"} == set(FRAMES)
    with djl_worker("0.34.0", folder(handler), tmp_path) as worker:
        assert worker.exchange(base64.b64decode(FRAMES["load"]["server"])).code == 204
        expected = {word: _texts(worker.ask([("data", b'{"inputs": "%s"}' % word.encode())]).bodies(1)[0])
                    for word in "abc"}  # fmt: skip
        for name, (code, words) in RECORDED.items():
            answered = worker.exchange(base64.b64decode(FRAMES[name]["server"]))
            assert answered.code == code, (name, answered)
            for word, body in zip(words, answered.bodies(len(words)), strict=True):
                if word == "-":
                    assert "generated_text" not in json.loads(body), (name, body)
                else:
                    assert _texts(body) == expected[word], name


def test_the_bench_of_both_workers_runs() -> None:
    jar("0.34.0")
    command = [sys.executable, "-m", "tests.bench.engines.bench_djl", "--batches", "2", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert re.search(r"ratio +\d\.\d+ \(aim: 0\.9 or more\)", done.stdout), done.stderr
    assert done.returncode in (0, 1)
