"""The reference of a run: by a server that the scenario names, and with prompts that it cannot answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.errors import DynoError, ScenarioError
from harness.records import Prompt
from harness.scenario.load import load_scenario
from harness.scenario.resolve import digest_of, resolve
from harness.space.check_files import check_files
from harness.store.run_folder import create_run
from harness.trial.bench import Bench
from harness.trial.progress import Lines
from harness.trial.reference import FurtherAnswers

TEMPLATE = """template: {body: '{"q": "{prompt}"}', answer: a}"""


class _Completions(BaseHTTPRequestHandler):
    """OpenAI completions that repeat the prompt in capitals; a long one is refused."""

    bodies: list[dict[str, Any]]
    at_once = most = 0
    lock = threading.Lock()
    all_there = threading.Event()

    def do_GET(self) -> None:
        self._answer(200, {})

    def do_POST(self) -> None:
        kind = type(self)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with kind.lock:
            kind.bodies.append(body)
            kind.at_once += 1
            kind.most = max(kind.most, kind.at_once)
            if kind.at_once >= 3:
                kind.all_there.set()
        kind.all_there.wait(5)
        with kind.lock:
            kind.at_once -= 1
        prompt = body["prompt"][0] if isinstance(body["prompt"], list) else body["prompt"]
        if len(prompt) > 100:
            self._answer(400, {"error": "too long"})
        else:
            self._answer(200, {"choices": [{"index": 0, "text": prompt.upper(), "finish_reason": "stop"}]})

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""


@pytest.fixture
def served() -> Iterator[tuple[str, type[_Completions]]]:
    fresh = {"bodies": [], "at_once": 0, "most": 0, "all_there": threading.Event()}
    kind = type("Fresh", (_Completions,), fresh)
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", kind
        finally:
            server.shutdown()
            thread.join()


def _path(folder: Path, url: str, texts: list[str], more: str = "") -> Path:
    (folder / "p.jsonl").write_text("".join(json.dumps({"id": text[:3], "prompt": text}) + "\n" for text in texts))
    path = folder / "s.yaml"
    reference = f"{{url: '{url}', protocol: openai, model_name: big}}"
    path.write_text(
        f"name: s\nspace: [{{engine: attach, options: {{url: '{url}', protocol: openai}}}}]\n"
        f"quality: {{reference: {reference}}}\nworkload: {{prompts: p.jsonl, {more}}}\n"
    )
    return path


def test_a_served_reference_is_asked_in_its_own_form_several_prompts_at_once(
    served: tuple[str, type[_Completions]], tmp_path: Path
) -> None:
    url, kind = served
    path = _path(tmp_path, url, ["one", "two", "long " * 30, "six"], TEMPLATE)
    resolved, notes = resolve(load_scenario(path), path), list[str]()
    check_files(resolved)
    with Bench.open(resolved, partial(create_run, resolved, tmp_path / "r", ""), progress=Lines(notes.append)) as bench:
        answers = bench.reference.answers
        stored = json.loads(bench.writer.layout.reference_json.read_text())
        further = FurtherAnswers(bench.inputs, bench.writer.layout, Lines(notes.append))
        asked = [Prompt(prompt_id=name, task="t", text=name, reference=None) for name in ("new", "x" * 200)]
        before = len(kind.bodies)
        assert further(asked) == further(asked[:1]) == {"new": "NEW"}
        assert len(kind.bodies) == before + 2, "what is known is not asked again"
    assert answers == {"one": "ONE", "two": "TWO", "six": "SIX"}
    assert stored["answers"] == answers
    assert bench.reference.source.startswith(
        f"big at {url} (1 of 4 prompts failed there and are not compared, as 'lon'"
    )
    assert "too long" in bench.reference.source
    assert kind.most >= 3
    assert all("prompt" in body and "q" not in body for body in kind.bodies)


def test_a_reference_that_answers_nothing_ends_the_run_with_its_words(
    served: tuple[str, type[_Completions]], tmp_path: Path
) -> None:
    url, kind = served
    kind.all_there.set()
    path = _path(tmp_path, url, ["long " * 30])
    resolved = resolve(load_scenario(path), path)
    new_run = partial(create_run, resolved, tmp_path / "r", "")
    with (
        pytest.raises(DynoError, match=r"the reference \(big at .*too long"),
        Bench.open(resolved, new_run, progress=Lines(print)),
    ):
        pass


def test_a_reference_s_address_and_protocol_are_checked_and_its_absence_changes_no_digest(tmp_path: Path) -> None:
    path = _path(tmp_path, "127.0.0.1:1", ["a"])
    with pytest.raises(ScenarioError, match=r"s\.yaml:3: quality\.reference\.url: expected text like "):
        load_scenario(path)
    path.write_text("name: s\nspace: [{engine: fake}]\nsearch: {sampler: tpe}\n")  # then the default
    assert digest_of(load_scenario(path)) == "ae89311d2a"
