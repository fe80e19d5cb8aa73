"""A user's own locustfile as the load: its requests become records, its mistakes one sentence with file:line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from harness.errors import MeasurementInvalid, ScenarioError
from harness.load.driver import LoadResult
from harness.load.user_locustfile.check import checked_locustfile
from harness.measure.user_locustfile import mixture, unavailable
from tests.harness.load.odd_server import Odd, echo, odd_server
from tests.harness.load.plans import plan_of, run_load

pytestmark = pytest.mark.heavy

CHAT = """
from locust import HttpUser, constant, task

print("what a locustfile prints is no word of the load process")

class Chat(HttpUser):
    wait_time = constant(0.01)

    @task(3)
    def ask(self):
        dyno = self.environment.dyno
        prompt = dyno.next_prompt()
        note = dyno.note(prompt)
        print("done now")
        with self.client.post(dyno.path, json=dyno.body(prompt), catch_response=True, context={"dyno": note}) as answer:
            note.answer = answer.json()["generated_text"]
            note.output_tokens = int(answer.headers["x-dyno-tokens"])
            note.token()
            note.end()

    @task
    def refused(self):
        self.client.post("/invocations", json={"inputs": "refuse"}, name="refused")

    @task
    def broken(self):
        raise KeyError("no such thing")
"""


def _answer(odd: Odd, body: dict[str, Any]) -> None:
    if body["inputs"] == "refuse":
        odd.answer(b"full", 503)
    else:
        time.sleep(0.01)
        echo(odd, body)


def _load(tmp_path: Path, text: str, **fields: Any) -> LoadResult:
    path = tmp_path / "chat.py"
    path.write_text(text)
    with odd_server(_answer) as url:
        values = {"requests": 40, "max_duration_s": 20.0, "request_timeout_s": 5.0, "locustfile": str(path)}
        return run_load(plan_of(url, **{**values, **fields}), tmp_path / "work")


@pytest.mark.parametrize("processes", [1, 2])
def test_every_request_event_is_a_record_with_what_the_locustfile_noted(tmp_path: Path, processes: int) -> None:
    result = _load(tmp_path, CHAT, processes=processes)
    measured = [record for record in result.records if not record.is_warmup]
    assert [record.seq for record in measured] == list(range(len(measured)))
    assert 40 <= len(measured) < 60, "requests under way when the fortieth was answered are finished and counted"
    assert all(result.begin_ns <= record.intended_ns == record.sent_ns < record.done_ns for record in measured)
    assert sum(record.is_warmup for record in result.records) >= 4
    good = [record for record in measured if record.name == "POST /invocations"]
    assert {record.outcome for record in good} == {"ok"}
    assert {record.output_tokens for record in good} == {4}
    assert min(record.latency_ns for record in good) >= 10_000_000
    assert len({record.latency_ns for record in good}) == len(good), "nanoseconds, not Locust's rounded milliseconds"
    for record in good:
        assert result.outputs[record.output_ids[0]] == f"echo text {record.prompt_ids[0][1:]}"
        assert record.first_token_ns is not None
        assert record.sent_ns < record.first_token_ns <= record.done_ns
    refused = [record for record in measured if record.name == "POST refused"]
    assert {(record.outcome, record.status_code) for record in refused} == {("rejected", 503)}
    doubts = [doubt.sentence for doubt in result.doubts if doubt.kind == "task_errors"]
    assert 1 <= len(doubts) <= processes
    assert all("chat.py:27: KeyError: 'no such thing'" in sentence for sentence in doubts)


def test_what_a_locustfile_cannot_know_is_named_and_never_invented(tmp_path: Path) -> None:
    silent = CHAT.replace("note.token()", "pass").replace("note.output_tokens = int", "int")
    result = _load(tmp_path, silent)
    reasons = unavailable(result.records)
    assert any("lag_p99_ms" in names for names in reasons)
    assert {"output_tokens_per_s", "ttft_*, itl_*, tpot_*"} <= set(reasons)
    assert all(record.output_tokens is None and record.first_token_ns is None for record in result.records)
    refused = sum(r.name == "POST refused" and not r.is_warmup and r.outcome == "ok" for r in result.records)
    assert refused == 0
    assert mixture(result.records) == ""  # the refused ones have no latency
    both = silent.replace('"inputs": "refuse"', '"inputs": "another"')
    assert "POST refused (n=" in mixture(_load(tmp_path, both).records)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import locust\nimport nothing_like_this\n", "chat.py:2: cannot be imported: ModuleNotFoundError"),
        ("from locust import User\n\nclass Mine(User:\n", "chat.py:3: cannot be imported: SyntaxError"),
        ("from locust import User\nx = 1\n", "chat.py:1: expected a class derived from locust.User"),
        ("from locust import User\n\nclass Mine(User):\n    pass\n", "chat.py:3: expected tasks in Mine"),
        ("raise SystemExit(3)\n", "chat.py:1: cannot be imported: SystemExit"),
        (
            CHAT + "\nfrom locust import LoadTestShape\n\nclass Wave(LoadTestShape):\n    tick = None\n",
            "chat.py:31: expected User classes only, got the LoadTestShape Wave",
        ),
    ],
)
def test_a_locustfile_that_cannot_drive_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "chat.py"
    path.write_text(text)
    with pytest.raises(ScenarioError) as refused:
        checked_locustfile(path)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_locustfile_that_only_raises_or_was_edited_meanwhile_ends_the_load(tmp_path: Path) -> None:
    with pytest.raises(MeasurementInvalid, match=r"chat.py:\d+: RuntimeError: not here .no request was sent"):
        _load(
            tmp_path,
            CHAT.replace(
                "    @task(3)", '    def on_start(self):\n        raise RuntimeError("not here")\n\n    @task(3)'
            ),
        )
    with pytest.raises(MeasurementInvalid, match="changed since this run began"):
        _load(tmp_path, CHAT, locustfile_sha256="0" * 64)


def test_users_begin_at_the_pace_asked_for(tmp_path: Path) -> None:
    result = _load(tmp_path, CHAT, users=4, spawn_per_s=2.0, warmup_requests=0, requests=10)
    first = {}
    for record in sorted(result.records, key=lambda each: each.sent_ns):
        first.setdefault(record.user, record.sent_ns)
    assert len(first) == 4
    assert max(first.values()) - min(first.values()) > 500_000_000, "two at once, two a second later"
