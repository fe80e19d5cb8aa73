"""The real load processes against servers that behave well, badly, or not at all."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from engines.api import Dialect
from harness.errors import EnvironmentFault, MeasurementInvalid, UsageError
from harness.load.driver import drive
from harness.load.served_model import ServedModel
from harness.load.so_far import Checks
from harness.records import Prompt, RequestRecord
from tests.harness.load.odd_server import Odd, echo, odd_server
from tests.harness.load.plans import PROMPTS, measured_of, plan_of, run_load

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[3]


def test_a_load_is_counted_warmed_up_and_read_back(tmp_path: Path) -> None:
    message: list[int] = []
    with odd_server(echo) as url:
        result = drive(plan_of(url), tmp_path, should_stop=lambda: None, on_progress=message.append)
    measured = measured_of(result)
    warm = [record for record in result.records if record.is_warmup]
    assert sorted(record.seq for record in measured) == list(range(20))
    assert len(warm) == 4
    assert max(record.done_ns for record in warm) < result.begin_ns <= min(record.intended_ns for record in measured)
    assert result.end_ns == max(record.done_ns for record in measured)
    assert {record.outcome for record in result.records} == {"ok"}
    assert all(record.intended_ns <= record.sent_ns < record.done_ns for record in measured)
    assert all(record.output_tokens == 4 for record in measured)
    assert Counter(record.prompt_ids[0] for record in measured) == {f"p{n}": 2 for n in range(10)}
    assert len(result.outputs) == 20
    for record in measured:
        assert result.outputs[record.output_ids[0]] == f"echo text {record.prompt_ids[0][1:]}"
    assert message[-1] == 20
    assert 0 < result.client_cpu_s < 10
    assert "locust" not in sys.modules


def test_requests_carry_several_prompts_and_the_same_ones_in_every_run(tmp_path: Path) -> None:
    with odd_server(echo) as url:
        first, second = (
            run_load(plan_of(url, inputs_per_request=3, processes=2, users=4), tmp_path / str(n)) for n in range(2)
        )
    sent = [{record.seq: record.prompt_ids for record in measured_of(result)} for result in (first, second)]
    assert sent[0] == sent[1]
    assert all(len(prompt_ids) == 3 for prompt_ids in sent[0].values())
    assert len(first.outputs) == 60
    assert {record.user for record in measured_of(first)} <= set(range(4))


def test_a_user_is_free_when_answered_and_thinks_before_the_next(tmp_path: Path) -> None:
    with odd_server(echo) as url:
        result = run_load(plan_of(url, users=1, requests=4, think_time_s=0.05, warmup_requests=0), tmp_path)
    measured = measured_of(result)
    for before, after in itertools.pairwise(measured):
        assert after.intended_ns == before.done_ns + 50_000_000


def test_an_empty_answer_is_right_where_the_reference_s_is_empty_too_and_it_is_asked_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def silent(odd: Odd, body: dict[str, Any]) -> None:
        odd.answer(json.dumps({"generated_text": "" if body["inputs"] in ("text 3", "text 4") else "a"}).encode())

    def reference(prompts: Sequence[Prompt]) -> dict[str, str]:
        asked.extend(prompt.prompt_id for prompt in prompts)
        return {"p3": "", "p4": "a"}

    with odd_server(silent) as url:
        result = run_load(plan_of(url), tmp_path / "asked", model=ServedModel(ask_reference=reference))
        alone = run_load(plan_of(url), tmp_path / "alone")
    outcomes = {record.prompt_ids[0]: record.outcome for record in measured_of(result)}
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "ok"} == {"p4": "empty"}
    assert sorted(asked) == ["p3", "p4"]
    assert {record.prompt_ids[0] for record in measured_of(alone) if record.outcome == "empty"} == {"p3", "p4"}


@pytest.mark.parametrize("fields", [{}, {"offsets_ns": tuple(range(0, 20_000_000_000, 5_000_000)), "window_s": 20.0}])
def test_a_load_ends_when_too_large_a_share_of_it_fails(fields: dict[str, Any], tmp_path: Path) -> None:
    numbers = itertools.count()

    def half(odd: Odd, body: dict[str, Any]) -> None:
        odd.answer(b"{}", status=500) if next(numbers) % 2 else echo(odd, body)

    with odd_server(half) as url:
        plan = plan_of(url, requests=100_000, max_duration_s=60.0, max_error_frac=0.4, **fields)
        result = run_load(plan, tmp_path)
    measured = measured_of(result)
    failed = sum(record.outcome != "ok" for record in measured)
    assert 20 <= len(measured) < 4000
    assert failed > 0.4 * len(measured)
    assert result.too_many_errors == result.stopped
    assert "more than max_error_frac = 0.4 allows; " in result.too_many_errors
    with odd_server(half) as url:
        whole = run_load(plan_of(url, requests=60, max_error_frac=0.8), tmp_path / "whole")
    assert (whole.too_many_errors, len(measured_of(whole))) == ("", 60)


def test_a_load_is_judged_after_fixed_numbers_of_requests_and_may_end(tmp_path: Path) -> None:
    judged: list[tuple[int, int]] = []

    def why_over(check: int, records: Sequence[RequestRecord], until_ns: int) -> str:
        judged.append((check, len(records)))
        assert len({record.seq for record in records}) == len(records)
        assert until_ns <= max(record.done_ns for record in records)
        return "enough" if check == 1 else ""

    def slow(odd: Odd, body: dict[str, Any]) -> None:
        time.sleep(0.02)
        echo(odd, body)

    with odd_server(slow) as url:
        plan = plan_of(url, requests=100_000, max_duration_s=60.0, processes=2)
        result = run_load(plan, tmp_path, checks=Checks(after=(20, 90, 400), why_over=why_over))
    assert [check for check, _ in judged] == [0, 1]
    assert all(count >= least for (_, count), least in zip(judged, (20, 90), strict=True))
    assert result.stopped == "enough"
    assert 90 <= len(measured_of(result)) < 400
    assert {record.seq for record in measured_of(result)} >= set(range(80))


def test_the_load_ends_with_its_time_and_finishes_what_is_in_flight(tmp_path: Path) -> None:
    def slow(odd: Odd, body: dict[str, Any]) -> None:
        time.sleep(0.15)
        echo(odd, body)

    with odd_server(slow) as url:
        result = run_load(plan_of(url, requests=10_000, max_duration_s=0.5, warmup_requests=0), tmp_path)
    measured = measured_of(result)
    assert 3 <= len(measured) < 20
    assert {record.outcome for record in measured} == {"ok"}
    assert max(record.intended_ns for record in measured) < result.begin_ns + 500_000_000


def _number(body: dict[str, Any]) -> int:
    """n of a prompt 'text n'."""
    return int(body["inputs"].split()[1])


STATUS_OUTCOMES = (
    (503, "rejected"),
    (429, "rejected"),
    (400, "bad_request"),
    (413, "bad_request"),
    (424, "server_error"),
    (500, "server_error"),
)


def test_status_codes_become_outcomes(tmp_path: Path) -> None:
    def refuse(odd: Odd, body: dict[str, Any]) -> None:
        odd.answer(b'{"error": "no"}', STATUS_OUTCOMES[_number(body)][0])

    with odd_server(refuse) as url:
        prompts = PROMPTS[: len(STATUS_OUTCOMES)]
        result = run_load(plan_of(url, prompts=prompts, requests=len(prompts), warmup_requests=0), tmp_path)
    for record in measured_of(result):
        status, outcome = STATUS_OUTCOMES[int(record.prompt_ids[0][1:])]
        assert (record.outcome, record.status_code) == (outcome, status)
        assert record.error == f'HTTP {status}: {{"error": "no"}}'


def _hang_up(odd: Odd, body: dict[str, Any]) -> None:
    odd.close_connection = True


def _cut(odd: Odd, body: dict[str, Any]) -> None:
    odd.send_response(200)
    odd.send_header("Content-Length", "100")
    odd.end_headers()
    odd.wfile.write(b'{"gen')
    odd.close_connection = True


def _no_http(odd: Odd, body: dict[str, Any]) -> None:
    odd.wfile.write(b"I am a teapot\r\n\r\n")
    odd.close_connection = True


def _silent(odd: Odd, body: dict[str, Any]) -> None:
    time.sleep(2.0)
    odd.close_connection = True


BAD_SERVERS: tuple[tuple[Callable[[Odd, dict[str, Any]], None], str], ...] = (
    (_hang_up, "connection_failed"),
    (_cut, "connection_failed"),
    (_no_http, "connection_failed"),
    (_silent, "timed_out"),
    (lambda odd, body: odd.answer(b"<html>"), "bad_body"),
    (lambda odd, body: odd.answer(b'{"generated_text": 3}'), "bad_body"),
)


def test_bad_servers_become_outcomes_with_an_error(tmp_path: Path) -> None:
    with odd_server(lambda odd, body: BAD_SERVERS[_number(body)][0](odd, body)) as url:
        prompts = PROMPTS[: len(BAD_SERVERS)]
        plan = plan_of(url, prompts=prompts, requests=12, warmup_requests=2, request_timeout_s=1.0)
        result = run_load(plan, tmp_path)
    measured = measured_of(result)
    assert len(measured) == 12
    for record in measured:
        assert record.outcome == BAD_SERVERS[int(record.prompt_ids[0][1:])][1]
        assert record.error
    assert result.outputs == {}


@pytest.mark.parametrize(("headers", "think_time_s"), [({"Connection": "close"}, 0.0), ({}, 0.1)])
def test_a_closed_connection_is_opened_again(tmp_path: Path, headers: dict[str, str], think_time_s: float) -> None:
    """Announced, or found closed before the next send. A connection that breaks after the send is a failed request."""

    def close(odd: Odd, body: dict[str, Any]) -> None:
        odd.answer(b'{"generated_text": "a"}', **headers)
        odd.close_connection = True

    with odd_server(close) as url:
        result = run_load(plan_of(url, think_time_s=think_time_s), tmp_path)
    assert {record.outcome for record in measured_of(result)} == {"ok"}


def _loses_every_second(odd: Odd, body: dict[str, Any]) -> None:
    """The second request on a connection is read and not answered, as llama.cpp's server does with streams."""
    odd.served = getattr(odd, "served", 0) + 1  # type: ignore[attr-defined]
    if odd.served == 2:  # type: ignore[attr-defined]
        odd.close_connection = True
        return
    data = b'{"choices": [{"text": "a", "finish_reason": "stop"}]}'
    odd.answer(b"data: " + data + b"\n\ndata: [DONE]\n\n" if body.get("stream") else data)


def test_a_dialect_with_fresh_connections_loses_no_stream_and_states_each_connect_time(tmp_path: Path) -> None:
    fresh = Dialect(is_streamed_on_fresh=True)
    with odd_server(_loses_every_second) as url:
        plan = plan_of(url, protocol="openai", stream=True, dialect=fresh)
        kept_when_whole = run_load(plan_of(url, protocol="openai", dialect=fresh), tmp_path / "whole")
        result = run_load(plan, tmp_path / "stream")
    assert {record.outcome for record in result.records} == {"ok"}
    assert all(record.connect_ns is not None for record in measured_of(result))
    assert any(record.outcome == "connection_failed" for record in kept_when_whole.records)


def test_a_request_lost_on_a_kept_connection_is_told_from_one_that_broke_off(tmp_path: Path) -> None:
    with odd_server(_loses_every_second) as url:
        kept = run_load(plan_of(url, protocol="openai", users=1, warmup_requests=0), tmp_path / "kept")
    with odd_server(_cut) as url:
        cut = run_load(plan_of(url, users=1, requests=2, warmup_requests=0), tmp_path / "cut")
    lost = [record.error for record in kept.records if record.outcome != "ok"]
    assert lost
    assert all("a kept connection was lost before any byte of the answer" in error for error in lost)
    assert all("the answer broke off after" in record.error for record in cut.records)


def test_nobody_listening_is_an_outcome_and_not_a_tight_loop(tmp_path: Path) -> None:
    with odd_server(echo) as url:
        pass
    result = run_load(plan_of(url, users=1, requests=100, max_duration_s=0.6, warmup_requests=0), tmp_path)
    measured = measured_of(result)
    assert {record.outcome for record in measured} == {"connection_failed"}
    assert len(measured) <= 13, "a failed request is followed by a pause of 50 ms"


def test_streaming_records_first_and_each_token(tmp_path: Path) -> None:
    def stream(odd: Odd, body: dict[str, Any]) -> None:
        assert body["stream"] is True
        odd.send_response(200)
        odd.send_header("Transfer-Encoding", "chunked")
        odd.end_headers()
        for line in (*({"token": {"id": n, "text": "a"}} for n in range(3)), {"generated_text": "aaa"}):
            data = json.dumps(line).encode() + b"\n"
            odd.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            odd.wfile.flush()
            time.sleep(0.03)
        odd.wfile.write(b"0\r\n\r\n")

    with odd_server(stream) as url:
        result = run_load(plan_of(url, stream=True, requests=6, warmup_requests=0), tmp_path)
    for record in measured_of(result):
        assert record.outcome == "ok"
        assert len(record.token_ns) == 3
        assert record.first_token_ns == record.token_ns[0]
        assert record.sent_ns < record.token_ns[0] <= record.token_ns[1] <= record.token_ns[2] <= record.done_ns
        assert record.token_ns[2] - record.token_ns[0] > 30_000_000


def _lingering(odd: Odd, end: bytes) -> None:
    """A stream whose connection stays open, and silent, for a second after `end`."""
    odd.send_response(200)
    odd.end_headers()
    odd.wfile.write(b'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n')
    odd.wfile.flush()
    time.sleep(0.05)
    odd.wfile.write(end)
    odd.wfile.flush()
    time.sleep(1.0)
    odd.close_connection = True


def test_a_stream_ends_at_done_and_not_with_its_connection(tmp_path: Path) -> None:
    with odd_server(lambda odd, body: _lingering(odd, b"data: [DONE]\n\n")) as url:
        plan = plan_of(url, protocol="openai-chat", stream=True, users=1, requests=3, warmup_requests=0)
        result = run_load(plan, tmp_path)
    measured = measured_of(result)
    assert {record.outcome for record in measured} == {"ok"}
    assert all(50_000_000 < record.latency_ns < 900_000_000 for record in measured)
    assert all(after.intended_ns - before.done_ns < 900_000_000 for before, after in itertools.pairwise(measured))


def test_an_answer_that_ends_with_its_connection_ends_with_its_last_bytes(tmp_path: Path) -> None:
    """Nobody can know that the answer is whole before the close, so the user is busy until then, and no latency is."""
    with odd_server(lambda odd, body: _lingering(odd, b"\n")) as url:
        plan = plan_of(url, protocol="openai-chat", stream=True, users=1, requests=2, warmup_requests=0)
        first, second = measured_of(run_load(plan, tmp_path))
    assert first.outcome == second.outcome == "ok"
    assert max(first.latency_ns, second.latency_ns) < 900_000_000
    assert second.intended_ns - first.done_ns > 900_000_000


def test_answers_with_any_bytes_survive_the_way_back(tmp_path: Path) -> None:
    text = "naïve \u2028 日本 \x7f"
    with odd_server(
        lambda odd, body: odd.answer(json.dumps({"generated_text": text}, ensure_ascii=False).encode())
    ) as url:
        result = run_load(plan_of(url, requests=2, warmup_requests=0), tmp_path)
    assert set(result.outputs.values()) == {text}


def test_a_dead_engine_stops_the_load_at_once_and_keeps_what_was_measured(tmp_path: Path) -> None:
    def slow(odd: Odd, body: dict[str, Any]) -> None:
        time.sleep(0.05)
        echo(odd, body)

    served_ns = time.monotonic_ns()
    with odd_server(slow) as url:
        is_dead = threading.Event()
        plan = plan_of(url, requests=10_000, max_duration_s=60.0, warmup_requests=0)
        result = drive(
            plan,
            tmp_path,
            should_stop=lambda: "it crashed" if is_dead.is_set() else None,
            on_progress=lambda done: is_dead.set() if done >= 5 else None,
        )
    assert result.stopped == "it crashed"
    assert len(measured_of(result)) >= 5
    assert time.monotonic_ns() - served_ns < 40e9


def test_a_crash_of_a_load_process_is_a_clear_error(tmp_path: Path) -> None:
    def kill_client(done: int) -> None:
        for child in psutil.Process().children():
            if "harness.load.client.locustfile" in child.cmdline():
                child.send_signal(signal.SIGSEGV)

    with (
        odd_server(echo) as url,
        pytest.raises(MeasurementInvalid, match=r"load process 0 ended early with exit status -11"),
    ):
        drive(plan_of(url), tmp_path, should_stop=lambda: None, on_progress=kill_client)


def test_a_load_process_that_cannot_start_shows_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no module named locust' >&2\nexit 7\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(MeasurementInvalid, match=r"exit status 7; .* Its last words: no module named locust"):
        run_load(plan_of("http://127.0.0.1:9"), tmp_path)


def test_a_disk_that_fills_up_under_the_records_is_an_environment_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ulimit -f` stands for the full disk: the kernel refuses to let the records grow beyond some KiB."""
    limited = tmp_path / "python"
    limited.write_text(f'#!/bin/sh\nulimit -f 16\nexec {sys.executable} "$@"\n')
    limited.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(limited))
    with odd_server(echo) as url, pytest.raises(EnvironmentFault, match="the disk filled up while load process 0"):
        run_load(plan_of(url, requests=2000), tmp_path)


def test_no_request_in_time_is_an_invalid_measurement(tmp_path: Path) -> None:
    with odd_server(echo) as url, pytest.raises(MeasurementInvalid, match="not one measured request"):
        run_load(plan_of(url, requests=0, warmup_requests=0), tmp_path)


def test_an_address_that_cannot_be_used_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected http://"):
        run_load(plan_of("localhost:8080"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_load_processes_end_with_their_parent(tmp_path: Path, sign: signal.Signals) -> None:
    code = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from harness.load.driver import drive
        from harness.load.plan import LoadPlan
        drive(LoadPlan.read(Path(sys.argv[1])), Path(sys.argv[2]), should_stop=lambda: None,
              on_progress=lambda done: print(done, flush=True))
    """)

    def slow(odd: Odd, body: dict[str, Any]) -> None:
        time.sleep(0.02)
        echo(odd, body)

    with odd_server(slow) as url:
        plan_path = tmp_path / "plan.json"
        plan_of(url, requests=100_000, max_duration_s=120.0, processes=2).write(plan_path)
        parent = subprocess.Popen(
            [sys.executable, "-c", code, str(plan_path), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        assert parent.stdout is not None
        while int(parent.stdout.readline()) < 5:
            pass
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) == 2
        parent.send_signal(sign)
        parent.communicate()
        _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
