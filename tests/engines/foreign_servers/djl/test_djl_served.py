"""A model folder under what a machine has of DJL Serving: the choice, and its real worker behind our front."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import httpx
import psutil
import pytest

from engines.api import EngineSpec, RunningEngine
from engines.errors import LaunchFailed
from engines.foreign_servers.djl import served as djl_served
from engines.foreign_servers.djl.folder import backend_spec, write_djl_folder
from engines.foreign_servers.djl.found import Found
from engines.foreign_servers.djl.front import unpacked
from engines.foreign_servers.djl.served import WORKER_VARIABLE, serve_folder, server_for
from tests.engines.foreign_servers.djl.djl_worker import jar
from tests.waiting import eventually

V36 = (0, 36, 0)


def _jars(folder: Path, *versions: str) -> str:
    for version in versions:
        (folder / f"python-{version}.jar").touch()
    (folder / "python-none.jar").touch()
    return str(folder)


@pytest.mark.parametrize(
    ("version", "chosen", "order"),
    [(V36, "0.34.0", "newest first"), ((0, 31, 0), "0.25.0", "first in, first out"), ((0, 19, 0), "0.25.0", "first")],
)
def test_the_nearest_worker_that_is_no_newer_stands_in_for_the_server(
    version: tuple[int, ...], chosen: str, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(djl_served, "find_djl", lambda wanted: None)
    monkeypatch.setenv(WORKER_VARIABLE, _jars(tmp_path, "0.25.0", "0.34.0"))
    server = server_for(version, "t5")
    assert (server.version, server.jar) == (chosen, tmp_path / f"python-{chosen}.jar")
    assert server.sentence.startswith(f"worker real, front ours: DJL Serving's Python worker {chosen}, our front with")
    assert f"its queue ({order}" in server.sentence
    assert server.sentence.endswith("no DJL Serving is here")


def test_a_whole_server_comes_first_and_ours_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKER_VARIABLE, _jars(tmp_path, "0.34.0"))
    found = Found(command=tmp_path / "djl-serving", version="0.36.0", by="on the path")
    monkeypatch.setattr(djl_served, "find_djl", lambda wanted: None if wanted else found)
    monkeypatch.setattr(djl_served, "java_problem", lambda: "")
    beside = "OPT_OUT_TRACKING=true, SERVING_PROMETHEUS=true"
    assert server_for(V36, "t5").sentence == f"under DJL Serving 0.36.0 (on the path) with {beside}"
    assert "no DJL Serving is here" in server_for(V36, "t5", command="/nowhere").sentence, "the one that was measured"
    monkeypatch.setattr(djl_served, "java_problem", lambda: "no java found")
    assert server_for(V36, "t5").sentence.endswith("DJL Serving cannot run (no java found)")
    monkeypatch.delenv(WORKER_VARIABLE)
    assert server_for(V36, "t5").sentence.startswith(
        "under our own server with its queue (newest first): DJL Serving cannot"
    )


def test_somebody_else_s_handler_runs_where_what_it_imports_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(djl_served, "find_djl", lambda wanted: None)
    monkeypatch.delenv(WORKER_VARIABLE, raising=False)
    installed = {"transformers": "5.1.0"}
    monkeypatch.setattr(djl_served, "_version_in", lambda python, package: installed.get(package, ""))
    assert "handler imports peft, which is not installed here" in server_for(V36, "transformers").sentence
    assert f"not installed in {sys.executable}" in server_for(V36, "transformers", sys.executable).sentence
    installed["peft"] = "0.15.2"
    assert "wants transformers 4 for T5, and 5.1.0 is installed" in server_for(V36, "transformers").sentence
    installed["transformers"] = "4.57.0"
    assert "no DJL Serving is here" in server_for(V36, "transformers").sentence


@pytest.mark.heavy
def test_what_an_environment_holds_is_asked_of_it() -> None:
    assert djl_served._version_in(Path(sys.executable), "numpy") == metadata.version("numpy")
    assert djl_served._version_in(None, "numpy") == metadata.version("numpy")
    for python in (Path(sys.executable), None, Path("/nowhere/python")):
        assert djl_served._version_in(python, "no-such-package") == ""


def test_a_dtype_that_is_made_in_another_environment_is_named_as_it_was_asked_for() -> None:
    spec = EngineSpec(engine="onnxruntime", model_dir=Path(), dtype="w8a8")  # none that this environment has
    facts = djl_served._facts(djl_served.FolderServer(sentence="by a stand-in"), V36, spec)
    assert facts.effective_dtype == "w8a8"


def test_a_jar_without_a_worker_is_one_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "python-0.34.0.jar"
    broken.write_text("no jar")
    with pytest.raises(LaunchFailed, match=r"python-0\.34\.0\.jar: cannot be unpacked: .*; download ai\.djl\.python"):
        unpacked(broken, tmp_path / "program")


SPEC = EngineSpec(
    engine="djl", model_dir=Path(__file__).parent, batch_size=4, workers=2, max_batch_delay_ms=20,
    options={"backend": "fake"},
)  # fmt: skip


@contextmanager
def _served(tmp_path: Path, extra: str = "", model_py: str = "") -> Iterator[tuple[RunningEngine, httpx.Client]]:
    folder = write_djl_folder(replace(backend_spec(SPEC), model_dir=_empty(tmp_path)), tmp_path / "model")
    with (folder / "serving.properties").open("a") as file:
        file.write(extra)
    if model_py:
        (folder / "model.py").write_text(model_py)
    server = djl_served.FolderServer(sentence="worker real", jar=jar("0.34.0"), version="0.34.0")
    with (
        serve_folder(server, V36, folder, SPEC, tmp_path / "logs", 60.0) as running,
        httpx.Client(timeout=60.0, trust_env=False) as client,
    ):
        yield running, client
    assert not [path for path in folder.rglob("__pycache__")], "the recommended folder stays as it was written"


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.mark.heavy
def test_the_real_worker_answers_behind_our_front(tmp_path: Path) -> None:
    with _served(tmp_path) as (running, client):
        url, texts = running.endpoint.url, [f"prompt {n}" for n in range(9)]
        assert running.facts.queue_order == "heap"
        assert running.facts.versions["djl-python-worker"] == "0.34.0"
        with ThreadPoolExecutor(9) as pool:
            answers = list(pool.map(lambda n: client.post(f"{url}?n={n}", json={"inputs": texts[n]}), range(9)))
        assert [answer.json()["generated_text"] for answer in answers] == texts
        assert [one["generated_text"] for one in client.post(url, json={"inputs": texts}).json()] == texts
        refused = client.post(url, content=b"{bad")
        assert (refused.status_code, refused.json()["code"]) == (400, 400)
        pids = running.pids
        assert len(pids) == 3, "the front and two workers"
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))


@pytest.mark.heavy
def test_one_death_ends_the_model_unless_the_file_allows_more(tmp_path: Path) -> None:
    with _served(tmp_path, "retry_threshold=1\n") as (running, client):
        url = running.endpoint.url
        for deaths in (1, 2):
            victim = running.pids[1]
            os.kill(victim, signal.SIGKILL)
            dying = [client.post(url, json={"inputs": "a"}).status_code for _ in range(2 * deaths)]
            assert set(dying) <= {200, 503}
            eventually(lambda gone=victim: gone not in running.pids)
            if deaths == 1:
                assert client.post(url, json={"inputs": "b"}).json()["generated_text"] == "b"
        eventually(lambda: client.get(url.replace("predictions/model", "ping")).status_code == 500)
        failure = running.failure()
        assert failure is not None
        assert "/ping answers 500: the model failed" in str(failure)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("model_py", "words"),
    [("raise SystemExit('out of luck')", "out of luck"), ("def handle(inputs):\n    raise ValueError('odd')\n", "odd")],
)
def test_a_worker_that_does_not_load_is_its_last_words(model_py: str, words: str, tmp_path: Path) -> None:
    with (
        pytest.raises(LaunchFailed, match=f"(?s)the model failed to load.*last words.*{words}"),
        _served(tmp_path, model_py=model_py),
    ):
        pass
    mine = psutil.Process().children(recursive=True)
    assert not [child for child in mine if "djl" in " ".join(child.cmdline())], sys.executable
