"""A server that is asked to keep conversations is asked once whether it does, before the load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from engines.api import Endpoint
from engines.errors import OutOfMemory, SpecInvalid
from harness.cli.main import run
from harness.records import Candidate
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.store.reader import find_run, read_run
from harness.trial.inputs import read_inputs
from harness.trial.kept_conversations import check_kept
from tests.harness.load.odd_server import Odd, odd_server
from tests.truth.conversation_law import ConversationLaw

Keeps = Literal["all", "none", "ignored"]
SCENARIO = """\
name: kept
workload:
  prompts: chats.jsonl
  chat: true
  conversations: {{history: server}}
  stream: true
  load: {{kind: closed, users: 2}}
  requests: 12
  warmup_requests: 2
quality: {{prompts: 2}}
space: [{{engine: attach, options: {{url: "{url}/v1", protocol: openai-responses, model_name: law}}}}]
objectives: [{{metric: ttft_p50_ms, goal: minimize}}]
search: {{sampler: grid, trials: 1, confirm: {{finalists: 0}}}}
"""


def _written(folder: Path, url: str, more: str = "") -> Path:
    turns = [("system", "be brief"), ("user", "one"), ("assistant", "first"), ("user", "two")]
    messages = [{"role": role, "content": text} for role, text in turns]
    rows = ({"id": f"c{number}", "messages": messages} for number in range(3))
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "s.yaml"
    path.write_text(SCENARIO.format(url=url) + more)
    return path


def _check(folder: Path, url: str, more: str = "") -> None:
    path = _written(folder, url, more)
    inputs = read_inputs(resolve(load_scenario(path), path))
    endpoint = Endpoint(url=f"{url}/v1", protocol="openai-responses", model_name="law")
    check_kept(endpoint, inputs, Candidate(block=0, engine="attach"))


def test_one_question_is_asked_twice_the_second_time_behind_its_answer(tmp_path: Path) -> None:
    server = ConversationLaw(law=lambda question: 0.0)
    with odd_server(server) as url:
        _check(tmp_path, url)
    first, second = server.rows.values()
    assert (first.is_stored, first.previous, second.previous) == (True, None, first.name)
    assert first.read == (("system", "be brief"), ("user", "one"))
    assert second.read == (*first.read, ("assistant", first.name), ("user", "one"))
    assert second.sent == (("user", "one"),)


@pytest.mark.parametrize(
    ("keeps", "why"),
    [
        ("none", r"did not follow previous_response_id; let it store .* own \(HTTP 404: .*'resp_0' not found"),
        ("ignored", "ignores previous_response_id: it read 3 tokens in a second turn and 3 in the first"),
    ],
)
def test_a_server_that_forgets_is_refused_in_one_sentence(tmp_path: Path, keeps: Keeps, why: str) -> None:
    what = rf"history: expected a server that keeps .*/v1/responses {why}"
    server = ConversationLaw(law=lambda question: 0.0, keeps=keeps)
    with odd_server(server) as url, pytest.raises(SpecInvalid, match=what) as error:
        _check(tmp_path, url)
    assert "\n" not in str(error.value)


def test_a_server_without_responses_is_refused_with_its_answer(tmp_path: Path) -> None:
    def answer(odd: Odd, body: dict[str, Any]) -> None:
        odd.answer(b"no such path", 404)

    with odd_server(answer) as url, pytest.raises(SpecInvalid, match=r"a first turn \(HTTP 404: no such path\)"):
        _check(tmp_path, url)


def test_a_server_without_counts_is_not_taken_at_its_word(tmp_path: Path) -> None:
    def answer(odd: Odd, body: dict[str, Any]) -> None:
        text = {"type": "message", "content": [{"type": "output_text", "text": "first"}]}
        odd.answer(json.dumps({"id": "r1", "status": "completed", "output": [text]}).encode())

    with odd_server(answer) as url, pytest.raises(SpecInvalid, match=r"counts no input tokens \(usage\), so nothing"):
        _check(tmp_path, url)


def test_an_engine_that_ends_over_the_question_is_no_server_that_forgets(tmp_path: Path) -> None:
    path = _written(tmp_path, "http://127.0.0.1:1")
    inputs = read_inputs(resolve(load_scenario(path), path))
    endpoint = Endpoint(url="http://127.0.0.1:1/v1", protocol="openai-responses", model_name="law")
    with pytest.raises(OutOfMemory, match="the kernel"):
        check_kept(endpoint, inputs, Candidate(block=0, engine="attach"), lambda: OutOfMemory("the kernel ended it"))


@pytest.mark.parametrize(("status", "why"), [(400, "(HTTP 400)"), (200, "(no answer that can be read; its words ")])
def test_a_refusal_that_repeats_the_prompt_is_not_kept_where_no_text_is(tmp_path: Path, status: int, why: str) -> None:
    def answer(odd: Odd, body: dict[str, Any]) -> None:
        odd.answer(json.dumps({"output": "be brief, one"}).encode(), status)

    with odd_server(answer) as url, pytest.raises(SpecInvalid) as error:
        _check(tmp_path, url, "keep_texts: false\n")
    assert why in str(error.value)
    assert "brief" not in str(error.value)


@pytest.mark.heavy
def test_a_search_on_a_server_that_keeps_conversations_and_on_one_that_does_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    with odd_server(ConversationLaw(law=lambda question: 5.0)) as url:
        assert run(["tune", str(_written(tmp_path, url)), "--results", str(results), "--no-verify"]) == 0
    (trial,) = read_run(find_run(results, "kept")).trials
    assert trial.summary is not None
    assert trial.summary.metrics["error_frac"].value == 0
    assert trial.chat is not None
    assert (trial.chat.history, trial.chat.template_by) == ("server", "server")
    capfd.readouterr()
    with odd_server(ConversationLaw(law=lambda question: 5.0, keeps="none")) as url:
        assert run(["tune", str(_written(tmp_path, url)), "--results", str(tmp_path / "again"), "--no-verify"]) == 4
    assert "did not follow previous_response_id" in "".join(capfd.readouterr())
