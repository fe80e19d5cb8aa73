"""The worker's loops over a socket pair, with backends that misbehave on purpose."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from engines.adapters.fake import FakeBackend, WordTokenizer
from engines.api import EngineFacts, EngineSpec, GenerateParams, GenerateRequest, TokenEvent
from engines.errors import RequestInvalid
from engines.server.wire import BlockingWire, Message
from engines.server.worker import BatchLoop, RollingLoop

TOKENIZER = WordTokenizer()


class Programmed:
    """A Backend that answers each prompt with itself, after `check` had its say."""

    def __init__(self, check: Callable[[Sequence[str]], None] = lambda texts: None, steps: int = 1) -> None:
        self.check = check
        self.steps = steps
        self.batches: list[list[str]] = []
        self.was_closed_early = False

    def load(self, spec: EngineSpec) -> EngineFacts:
        raise NotImplementedError

    def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        texts = [TOKENIZER.decode(request.input_ids) for request in batch]
        self.batches.append(texts)
        self.check(texts)
        try:
            for _ in range(self.steps - 1):
                yield [TokenEvent(index=index, token_id=request.input_ids[0]) for index, request in enumerate(batch)]
            yield [
                TokenEvent(index=index, token_id=request.input_ids[0], finish="length")
                for index, request in enumerate(batch)
            ]
        except GeneratorExit:
            self.was_closed_early = True
            raise

    def close(self) -> None:
        pass


def job(number: int, text: str, **changes: Any) -> Message:
    params = asdict(GenerateParams())
    return {"id": number, "text": text, "params": params, "wants_stream": False, "wants_details": False, **changes}


def converse(loop: Callable[[BlockingWire], Any], *messages: Message) -> list[Message]:
    """What a worker answers to `messages` and then 'stop'."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30.0)
        front = BlockingWire(ours)
        thread = threading.Thread(target=loop(BlockingWire(theirs)).run)
        thread.start()
        front.send(*messages, {"kind": "stop"})
        thread.join(timeout=30.0)
        assert not thread.is_alive()
        theirs.shutdown(socket.SHUT_WR)
        answers = []
        while (answer := front.receive()) is not None:
            answers.append(answer)
        return answers


def batch_loop(backend: Programmed) -> Callable[[BlockingWire], BatchLoop]:
    return lambda wire: BatchLoop(wire, backend, TOKENIZER)


def batch(*jobs: Message) -> Message:
    return {"kind": "batch", "batch": jobs[0]["id"], "jobs": list(jobs)}


def test_every_job_of_a_batch_is_answered_before_the_batch_is_done() -> None:
    answers = converse(batch_loop(Programmed()), batch(job(1, "a"), job(2, "b")))
    assert [(answer["kind"], answer.get("job"), answer.get("text")) for answer in answers] == [
        ("done", 1, "a"), ("done", 2, "b"), ("batch_done", None, None),
    ]  # fmt: skip


def test_one_request_the_backend_refuses_does_not_fail_its_batch_mates() -> None:
    def refuse_bad(texts: Sequence[str]) -> None:
        if "bad" in texts:
            raise RequestInvalid("bad is not served")

    backend = Programmed(refuse_bad)
    answers = converse(batch_loop(backend), batch(job(1, "a"), job(2, "bad"), job(3, "c")))
    by_job = {answer["job"]: answer for answer in answers if answer["kind"] == "done"}
    assert (by_job[1]["text"], by_job[3]["text"]) == ("a", "c")
    assert (by_job[2]["error"], by_job[2]["message"]) == ("RequestInvalid", "bad is not served")
    assert answers[-1]["kind"] == "batch_done"
    assert backend.batches == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]


@pytest.mark.parametrize("error", [ValueError("shape mismatch"), MemoryError("a huge prompt"), IndexError("odd id")])
def test_a_prompt_that_fails_the_model_fails_alone(error: Exception) -> None:
    def fail_on_x(texts: Sequence[str]) -> None:
        if "x" in texts:
            raise error

    answers = converse(batch_loop(Programmed(fail_on_x)), batch(job(1, "x"), job(2, "y")), batch(job(3, "z")))
    by_job = {answer["job"]: answer for answer in answers if answer["kind"] == "done"}
    assert (by_job[1]["error"], by_job[1]["message"]) == ("ModelError", f"{type(error).__name__}: {error}")
    assert (by_job[2]["text"], by_job[3]["text"]) == ("y", "z")


def test_a_stream_that_has_begun_is_not_begun_again() -> None:
    class Breaking(Programmed):
        def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
            if len(batch) == 1:
                yield from super().generate(batch)
                return
            yield [TokenEvent(index=index, token_id=request.input_ids[0]) for index, request in enumerate(batch)]
            raise ValueError("broken in the middle")

    answers = converse(batch_loop(Breaking()), batch(job(1, "a", wants_stream=True), job(2, "b")))
    assert [answer["text"] for answer in answers if answer["kind"] == "token"] == ["a"]
    by_job = {answer["job"]: answer for answer in answers if answer["kind"] == "done"}
    assert by_job[1]["error"] == "ModelError"
    assert by_job[2]["text"] == "b"


def test_a_backend_that_leaves_one_request_open_fails_that_one_alone() -> None:
    class Silent(Programmed):
        """Has nothing to say to an empty prompt, not even an end."""

        def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
            for events in super().generate(batch):
                yield [event for event in events if len(batch[event.index].input_ids) > 1]

    answers = converse(batch_loop(Silent()), batch(job(1, "a"), job(2, "")))
    by_job = {answer["job"]: answer for answer in answers if answer["kind"] == "done"}
    assert by_job[1]["text"] == "a"
    assert "ended a batch before" in by_job[2]["message"]


class OddTokenizer(WordTokenizer):
    """Meets a text, and a token, that it cannot take."""

    def encode(self, text: str) -> tuple[int, ...]:
        if text == "odd":
            raise UnicodeError("a lone surrogate")
        return super().encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        text = super().decode(ids)
        if text == "undecodable":
            raise OverflowError("no such token")
        return text


@pytest.mark.parametrize("is_rolling", [False, True])
def test_a_text_or_an_answer_that_the_tokenizer_cannot_take_fails_alone(is_rolling: bool) -> None:
    backend = FakeBackend()
    backend.load(EngineSpec(engine="fake", model_dir=Path(), options={"service_ms": 0}))
    codec = backend.tokenizer = OddTokenizer()
    jobs = [job(1, "a"), job(2, "odd"), job(3, "undecodable"), job(4, "b")]
    if is_rolling:
        messages = [{"kind": "admit", "job": one} for one in jobs]
        answers = _until_four_are_done(lambda wire: RollingLoop(wire, backend, codec), messages)
    else:
        answers = converse(lambda wire: BatchLoop(wire, backend, codec), batch(*jobs))
    by_job = {answer["job"]: answer for answer in answers if answer["kind"] == "done"}
    assert (by_job[1].get("text"), by_job[4].get("text")) == ("a", "b")
    assert "lone surrogate" in by_job[2]["message"]
    assert "no such token" in by_job[3]["message"]


def _until_four_are_done(loop: Callable[[BlockingWire], Any], messages: Sequence[Message]) -> list[Message]:
    """What a rolling worker answers before it is asked to stop."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30.0)
        front = BlockingWire(ours)
        thread = threading.Thread(target=loop(BlockingWire(theirs)).run)
        thread.start()
        front.send(*messages)
        answers: list[Message] = []
        while sum(answer["kind"] == "done" for answer in answers) < 4:
            answer = front.receive()
            assert answer is not None
            answers.append(answer)
        front.send({"kind": "stop"})
        thread.join(timeout=30.0)
    return answers


class FailsTogether(FakeBackend):
    """A step that fails as long as the prompt 'x' is among its requests."""

    def __init__(self) -> None:
        super().__init__()
        self._bad: set[int] = set()

    def admit(self, request: GenerateRequest) -> int | None:
        index = super().admit(request)
        if index is not None and self.tokenizer.decode(request.input_ids) == "x":
            self._bad.add(index)
        return index

    def cancel(self, index: int) -> None:
        self._bad.discard(index)
        super().cancel(index)

    def step(self) -> Sequence[TokenEvent]:
        if self._bad:
            raise MemoryError("a huge prompt")
        return super().step()


def test_a_prompt_that_fails_a_rolling_step_fails_alone() -> None:
    backend = FailsTogether()
    backend.load(EngineSpec(engine="fake", model_dir=Path(), options={"service_ms": 0}))
    jobs = [job(number, text) for number, text in enumerate(("a b", "x", "c d", "e"), start=1)]
    answers = _until_four_are_done(
        lambda wire: RollingLoop(wire, backend, backend.tokenizer), [{"kind": "admit", "job": one} for one in jobs]
    )
    by_job = {answer["job"]: answer for answer in answers}
    assert [by_job[number].get("text") for number in (1, 3, 4)] == ["a b", "c d", "e"]
    assert by_job[2]["message"] == "MemoryError: a huge prompt"


class Counting(FakeBackend):
    """Can take several steps at once, and counts how often it is asked which way."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def step(self) -> Sequence[TokenEvent]:
        self.asked.add("one")
        return super().step()

    def several_steps(self, at_most_s: float) -> Sequence[TokenEvent]:
        assert at_most_s > 0
        self.asked.add("several")
        return [*super().step(), *super().step()]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_several_steps_are_taken_at_once_while_nobody_streams(is_streamed: bool) -> None:
    backend = Counting()
    backend.load(EngineSpec(engine="fake", model_dir=Path(), options={"service_ms": 0}))
    jobs = [job(number, "a b c", wants_stream=is_streamed) for number in range(4)]
    answers = _until_four_are_done(
        lambda wire: RollingLoop(wire, backend, backend.tokenizer), [{"kind": "admit", "job": one} for one in jobs]
    )
    assert [answer["text"] for answer in answers if answer["kind"] == "done"] == ["a b c"] * 4
    assert backend.asked == ({"one"} if is_streamed else {"several"})


def test_a_stream_sends_its_tokens_as_they_come() -> None:
    answers = converse(batch_loop(Programmed(steps=3)), batch(job(1, "a", wants_stream=True), job(2, "b")))
    assert [(answer["kind"], answer.get("job")) for answer in answers] == [
        ("token", 1), ("token", 1), ("token", 1), ("done", 1), ("done", 2), ("batch_done", None),
    ]  # fmt: skip


def test_a_batch_that_nobody_waits_for_is_given_up() -> None:
    backend = Programmed(steps=1000)
    answers = converse(
        batch_loop(backend), batch(job(1, "a"), job(2, "b")), {"kind": "cancel", "jobs": [1, 2]}, batch(job(3, "c"))
    )
    assert backend.was_closed_early
    assert [answer["job"] for answer in answers if answer["kind"] == "done"] == [1, 2, 3]
    assert next(answer for answer in answers if answer.get("job") == 3)["generated_tokens"] == 1000


def test_a_batch_with_one_waiting_client_goes_on() -> None:
    backend = Programmed(steps=5)
    answers = converse(batch_loop(backend), batch(job(1, "a"), job(2, "b")), {"kind": "cancel", "jobs": [1]})
    assert not backend.was_closed_early
    assert [answer["generated_tokens"] for answer in answers if answer["kind"] == "done"] == [5, 5]


@pytest.mark.parametrize("is_rolling", [False, True])
def test_a_front_that_is_gone_ends_the_loop(is_rolling: bool) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    backend = FakeBackend()
    backend.load(EngineSpec(engine="fake", model_dir=Path()))
    with theirs:
        wire = BlockingWire(theirs)
        loop = RollingLoop(wire, backend, TOKENIZER) if is_rolling else BatchLoop(wire, backend, TOKENIZER)
        loop.run()


class FailingStep(FakeBackend):
    """Raises at its second step, and works again afterwards."""

    steps = 0

    def step(self) -> Sequence[TokenEvent]:
        self.steps += 1
        if self.steps == 2:
            raise ValueError("step failed")
        return super().step()


def test_a_failed_rolling_step_fails_what_is_active_and_the_worker_goes_on() -> None:
    backend = FailingStep()
    backend.load(EngineSpec(engine="fake", model_dir=Path(), options={"service_ms": 0}))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30.0)
        front = BlockingWire(ours)
        loop = RollingLoop(BlockingWire(theirs), backend, backend.tokenizer)
        thread = threading.Thread(target=loop.run)
        thread.start()
        front.send({"kind": "admit", "job": job(1, "a b c")})
        failed = front.receive()
        front.send({"kind": "admit", "job": job(2, "d e")})
        served = front.receive()
        front.send({"kind": "stop"})
        thread.join(timeout=30.0)
    assert failed is not None
    assert served is not None
    assert (failed["job"], failed["error"]) == (1, "ModelError")
    assert (served["job"], served["text"]) == (2, "d e")


def test_long_messages_arrive_whole() -> None:
    text = "word " * 100_000
    (answer, _) = converse(batch_loop(Programmed()), batch(job(1, text)))
    assert answer["input_tokens"] == 100_001
