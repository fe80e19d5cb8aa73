"""`dyno tune` on an OpenAI chat server that somebody else runs, behind an API key."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from engines.adapters.attach import AttachedEndpoint
from engines.errors import EngineError, LaunchFailed, OutOfMemory
from harness.cli.main import run
from harness.store.reader import find_run, read_run

pytestmark = pytest.mark.heavy

KEY = "sk-emulated-0123456789abcdef"
SCENARIO = """
name: chat
workload:
  stream: true
  load: {{kind: closed, users: 2}}
  requests: 12
  warmup_requests: 2
  request: {{body: {{max_tokens: null, max_completion_tokens: "{{max_new_tokens}}"}}, headers: {{X-Tenant: a}}}}
quality: {{prompts: 2}}
space: [{{engine: attach, options: {{url: "{url}/v1", protocol: openai-chat, model_name: m, api_key_env: CHAT_KEY}}}}]
objectives: [{{metric: ttft_p50_ms, goal: minimize}}]
search: {{sampler: grid, trials: 1, confirm: {{finalists: 0}}}}
"""


class _Chat(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/v1/models" else 404, b'{"data": [{"id": "chat-7b"}]}')

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        given = self.headers.get("Authorization", "")
        if self.path != "/v1/chat/completions" or given != f"Bearer {KEY}":
            self._answer(401, json.dumps({"error": f"Incorrect API key: {given}"}).encode())
            return
        unknown = set(asked) - {"model", "messages", "temperature", "max_completion_tokens", "stream", "stream_options"}
        if unknown or asked["max_completion_tokens"] != 80 or self.headers.get("X-Tenant") != "a":
            self._answer(400, json.dumps({"error": f"Unrecognized: {sorted(unknown)}"}).encode())
            return
        words = asked["messages"][0]["content"].split()
        usage = {"prompt_tokens": len(words), "completion_tokens": len(words)}
        if not asked.get("stream"):
            self._answer(
                200, json.dumps({"choices": [{"message": {"content": " ".join(words)}}], "usage": usage}).encode()
            )
            return
        pieces: list[Any] = [{"choices": [{"delta": {"content": f"{word} "}}]} for word in words]
        pieces.append({"choices": [], "usage": usage})
        self._answer(
            200, b"".join(b"data: " + json.dumps(piece).encode() + b"\n\n" for piece in pieces) + b"data: [DONE]\n\n"
        )

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def chat_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Chat) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@pytest.fixture
def scenario(tmp_path: Path) -> Iterator[Path]:
    with chat_server() as url:
        path = tmp_path / "chat.yaml"
        path.write_text(SCENARIO.format(url=url))
        yield path


def test_a_chat_server_behind_a_key_is_measured_and_the_key_is_nowhere(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHAT_KEY", KEY)
    results = tmp_path / "results"
    assert run(["tune", str(scenario), "--results", str(results), "--no-verify"]) == 0
    (trial,) = read_run(find_run(results, "chat")).trials
    assert trial.summary is not None
    assert trial.summary.metrics["error_frac"].value == 0
    assert trial.summary.metrics["ttft_p50_ms"].value > 0
    assert trial.summary.metrics["output_tokens_per_s"].value > 0
    assert (trial.served_model, trial.effective_dtype) == ("chat-7b", "unknown")
    assert trial.quality is not None
    assert trial.quality.verdict == "Unknown", "nobody named the model that is served there"
    assert trial.quality.metrics["nonfinite_frac"].value == 0
    assert KEY not in "".join(capfd.readouterr())
    assert not [path for path in results.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_refusal_that_repeats_the_key_is_kept_without_it(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = KEY[::-1]
    monkeypatch.setenv("CHAT_KEY", wrong)
    results = tmp_path / "results"
    assert run(["tune", str(scenario), "--results", str(results)]) == 4
    message = "".join(capfd.readouterr())
    assert "HTTP 401" in message
    assert "Incorrect API key: Bearer [redacted]" in message
    assert wrong not in message
    assert not [path for path in results.rglob("*") if path.is_file() and wrong.encode() in path.read_bytes()]


def test_a_key_that_is_not_set_is_said_before_anything_is_asked(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CHAT_KEY", raising=False)
    assert run(["tune", str(scenario), "--results", str(tmp_path / "results")]) == 4
    assert "option api_key_env='CHAT_KEY': this environment variable is not set; export it" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("error", "outcome"), [(OutOfMemory("it is gone"), "out_of_memory"), (LaunchFailed("out of memory"), "crashed")]
)
def test_how_a_trial_ended_is_decided_by_the_error_and_not_by_its_words(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: EngineError, outcome: str
) -> None:
    monkeypatch.setenv("CHAT_KEY", KEY)
    monkeypatch.setattr(AttachedEndpoint, "failure", lambda self: error)
    results = tmp_path / "results"
    assert run(["tune", str(scenario), "--results", str(results)]) == 4
    (trial,) = read_run(find_run(results, "chat")).trials
    assert (trial.outcome, trial.reason) == (outcome, str(error))
