"""Prompts of a data set on the hub: read once by the library `datasets`, kept, and refused in one sentence each."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from harness.errors import EnvironmentFault, ScenarioError
from harness.load.prompts.hub import HubFile, read_hub
from harness.load.prompts.prompts_file import read_prompts_file
from harness.scenario.hub_prompts import HubPrompts
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve, resolved_from_dict
from harness.space.check_files import checked_scenario
from tests.harness.load.prompts.hub_stand_in import COMMIT, LIBRARY, NAME, hub

pytestmark = pytest.mark.heavy

ROWS = [
    {"id": number, "question": f"What is {number} and {number}?", "asked_of": "model", "chat": chat, "empty": None}
    for number, chat in enumerate(
        (
            [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}, {"from": "human", "value": "So?"}],
            [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}],
            [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Why not?"}],
        )
    )
]
FILES = {"train.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode()}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture(params=["a stand-in", "datasets"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A stand-in for the hub, read by a stand-in for the library, or by the library itself where it is installed."""
    if request.param == "datasets":
        pytest.importorskip("datasets", reason="could not import 'datasets'", exc_type=ImportError)
    else:
        (tmp_path / "library").mkdir()
        (tmp_path / "library" / "datasets.py").write_text(LIBRARY)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "library"))
    with hub(FILES) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield url


def _read(tmp_path: Path, limit_s: float = 60, **asked: Any) -> HubFile:
    return read_hub(HubPrompts(hub=NAME, **asked), tmp_path / "cache", lambda field: f"s.yaml:3: {field}: ", limit_s)


def test_the_first_rows_become_prompts_and_are_kept(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _read(tmp_path, rows=2)
    assert [(each.prompt_id, each.text) for each in read_prompts_file(file.path).prompts] == [
        ("0", "What is 0 and 0?"),
        ("1", "What is 1 and 1?"),
    ]
    assert file.revision == COMMIT
    assert file.path.name == f"someone--chats-{file.sha256[:12]}.jsonl"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert _read(tmp_path, rows=2) == file
    with pytest.raises(EnvironmentFault, match=r"^s\.yaml:3: hub: someone/chats: the hub could not be reached \("):
        _read(tmp_path, rows=3)


@pytest.mark.parametrize(
    ("column", "formats", "texts"),
    [
        ("question", (), ["What is 0 and 0?", "What is 1 and 1?", "What is 2 and 2?"]),
        ("chat", ("ShareGPT's conversations",), ["Hi?\n\nHello.\n\nSo?", "Who?", "Why?"]),
    ],
)
def test_a_named_column_alone_is_read(
    address: str, tmp_path: Path, column: str, formats: tuple[str, ...], texts: list[str]
) -> None:
    read = read_prompts_file(_read(tmp_path, column=column, revision="main").path, is_chat=True)
    assert [prompt.text for prompt in read.prompts] == texts
    assert (read.formats, read.unused) == (formats, ())


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"hub": "someone/cats"}, "hub: expected a data set of the hub, got 'someone/cats'; check the spelling, or"),
        ({"revision": "v2"}, "revision: expected a branch, tag or commit of someone/chats, got 'v2'"),
        ({"column": "text"}, "column: expected one of id, question, asked_of, chat, empty, got 'text'"),
        ({"split": "test"}, "hub: the data set cannot be read so: Bad split: test. Available splits: ['train']"),
        ({"subset": "en"}, "hub: the data set cannot be read so: BuilderConfig 'en' not found. Available: ['default'"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: dict[str, str], sentence: str
) -> None:
    path = tmp_path / "s.yaml"
    fields = "".join(f"\n    {name}: {value}" for name, value in ({"hub": NAME} | asked).items())
    path.write_text(f"name: s\nworkload:\n  prompts:{fields}\nspace: [{{engine: fake}}]\n")
    assert run(["scenario", "check", str(path)]) == 2
    line = 3 + 1 + list({"hub": NAME} | asked).index(sentence.partition(":")[0])
    assert capsys.readouterr().err.startswith(f"{path}:{line}: workload.prompts.{sentence}")
    assert not list((tmp_path / "cache").rglob("*.jsonl"))


def test_a_run_names_the_rows_that_it_read(address: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"name: s\nworkload: {{prompts: {{hub: {NAME}, column: question}}}}\nspace: [{{engine: fake}}]\n")
    unread = resolve(load_scenario(path), path)
    assert str(unread.prompts_path) == f"hub:{NAME}"
    resolved = checked_scenario(path)
    assert resolved.digest != unread.digest
    stored = resolved.as_dict()["resolved"]
    assert stored["prompts_revision"] == COMMIT
    assert stored["prompts_sha256"] == _read(tmp_path, column="question").sha256
    assert resolved_from_dict(json.loads(json.dumps(resolved.as_dict()))) == resolved


def test_a_data_set_without_known_columns_names_those_that_it_has(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub({"train.jsonl": b'{"words": "a b"}\n'}) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(
            ScenarioError, match=r"^s\.yaml:3: hub: expected a column of prompts \(.*\), got words; name"
        ):
            _read(tmp_path)


def test_without_the_library_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "datasets.py").write_text("raise ImportError('No module named datasets')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EnvironmentFault, match=r"needs the package datasets .*: pip install 'dynamometer\[hub\]'"):
        _read(tmp_path)


def test_a_hub_that_never_answers_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "datasets.py").write_text(LIBRARY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    begin_s = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(EnvironmentFault, match="someone/chats: not read within 3 s; check the network"):
            _read(tmp_path, limit_s=3)
    assert time.monotonic() - begin_s < 20


def test_a_reader_that_dies_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "datasets.py").write_text("import os, sys\nsys.stderr.write('out of luck\\n')\nos._exit(7)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EnvironmentFault, match="someone/chats: reading it ended with status 7: out of luck"):
        _read(tmp_path)


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ("{hub: a/b/c}", "workload.prompts.hub: expected the id of a data set, such as OWNER/NAME, got 'a/b/c'"),
        ("{hub: a/b, splitt: x}", "workload.prompts.splitt: expected a known key, got 'splitt'; did you mean 'split'?"),
        ("{split: test}", "workload.prompts.hub: expected a value, got nothing; this key is required"),
        ("{hub: a/b, rows: 0}", "workload.prompts.rows: expected a number >= 1, got 0"),
        ("7", "workload.prompts: expected text, got 7"),
    ],
)
def test_a_wrong_question_is_refused_where_it_stands(tmp_path: Path, prompts: str, sentence: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"name: s\nworkload:\n  prompts: {prompts}\nspace: [{{engine: fake}}]\n")
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert str(caught.value).startswith(f"{path}:3: {sentence}")
