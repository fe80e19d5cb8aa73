"""One worker process of the model server: loads a backend and answers batches over its socket.

It ends when the front asks it to, when the front is gone (end of file, and PR_SET_PDEATHSIG for when it is busy in
native code), or when the backend cannot load. The only place in the server where an engine library is imported.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from engines.api import Backend, EngineFacts, EngineSpec, RollingBackend, TokenEvent
from engines.errors import EngineError, RequestInvalid, SpecInvalid
from engines.launching import load_backend
from engines.models.checkpoint.generation_defaults import generation_defaults
from engines.processes.supervisor import dies_with
from engines.server.answers import Answer, TextCodec
from engines.server.wire import BlockingWire, Message

LOOK_EVERY_S = 0.001
"""How long a new request may wait for the steps under way: far below an answer's time, far above what a look costs."""


def main() -> None:
    """Serve the socket whose file descriptor is the only argument."""
    wire = BlockingWire(socket.socket(fileno=int(sys.argv[1])))
    _die_with_the_front(int(sys.argv[2]))
    load = wire.receive()
    if load is None:
        return
    loaded = _load_or_exit(wire, load)
    gc.collect()
    gc.freeze()  # what is alive now stays; later collections are short
    is_rolling = load["spec"]["rolling_batch"] != "disable"
    wire.send({"kind": "loaded", "facts": loaded.facts, "is_rolling": is_rolling})
    try:
        if is_rolling:
            RollingLoop(wire, cast(RollingBackend, loaded.backend), loaded.codec).run()
        else:
            BatchLoop(wire, loaded.backend, loaded.codec).run()
    except ConnectionError:
        pass  # the front is gone; nobody waits for an answer
    finally:
        loaded.backend.close()


def answer_batch(loaded: Loaded, jobs: Sequence[Message]) -> list[Message]:
    """The finished message of every job of one batch, in no particular order, for a caller in the same process."""
    return BatchLoop(_NoWire(), loaded.backend, loaded.codec).answer(jobs)


class _NoWire:
    """Nobody to stream to, nobody who cancels."""

    def send(self, *messages: Message) -> None:
        """Drop token messages."""

    def poll(self) -> Message | None:
        return None

    def receive(self) -> Message | None:
        return None


def _die_with_the_front(front: int) -> None:
    if not dies_with(front):
        sys.exit(0)
    for number in (signal.SIGINT, signal.SIGTERM):  # the front decides when: a signal to the group must not lose work
        signal.signal(number, lambda *_: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A backend that is ready, its tokenizer, and its description of itself."""

    backend: Backend
    codec: TextCodec
    facts: Message
    defaults: Mapping[str, Any]
    """The model's own generation parameters, for requests that leave them out."""


def load_of(load: Message) -> Loaded | tuple[str, str]:
    """The backend of a load message; on failure the error's name and its sentence."""
    spec = EngineSpec.from_message(load["spec"])
    try:
        backend = load_backend(spec.engine)
        facts = backend.load(spec)
        if spec.rolling_batch != "disable" and not (hasattr(backend, "admit") and hasattr(backend, "step")):
            raise SpecInvalid(f"{spec.engine}: rolling_batch {spec.rolling_batch!r} refused; use 'disable'")
        defaults = generation_defaults(spec.model_dir).values
        return Loaded(backend=backend, codec=_codec(backend, spec), facts=_facts_message(facts), defaults=defaults)
    except MemoryError as error:
        return ("OutOfMemory", f"{spec.engine} ran out of memory while loading {spec.model_dir}: {error!r}")
    except EngineError as error:
        return (type(error).__name__, str(error))
    except Exception as error:  # the boundary of one worker's load: it becomes a failed launch with its reason
        traceback.print_exc()
        return ("LaunchFailed", f"{spec.engine} could not load {spec.model_dir}: {type(error).__name__}: {error}")


def _load_or_exit(wire: BlockingWire, load: Message) -> Loaded:
    """Load the backend; on failure report the reason to the front and end the process with status 3."""
    found = load_of(load)
    if isinstance(found, Loaded):
        return found
    wire.send({"kind": "failed", "error": found[0], "message": found[1]})
    sys.exit(3)


def _codec(backend: Backend, spec: EngineSpec) -> TextCodec:
    """The backend's own tokenizer where it brings one (fake), else the model folder's."""
    own: TextCodec | None = getattr(backend, "tokenizer", None)
    if own is not None:
        return own
    from engines.models.tokenizer import Tokenizer

    return Tokenizer.load(spec.model_dir)


def _facts_message(facts: EngineFacts) -> dict[str, Any]:
    return {
        "effective_dtype": facts.effective_dtype,
        "versions": dict(facts.versions),
        "load_s": facts.load_s,
        "notes": [*facts.notes, *_place_notes()],
        "converted_dir": facts.converted_dir,
    }


def _place_notes() -> tuple[str, ...]:
    """Where this worker runs, when that is not the front's environment."""
    front = os.environ.get("DYNO_FRONT_PYTHON", sys.executable)
    return () if front == sys.executable else (f"served by the environment {sys.prefix}",)


class BatchLoop:
    """Static batches: one at a time; every answer of a batch is sent when the whole batch has finished, as DJL does."""

    def __init__(self, wire: BlockingWire | _NoWire, backend: Backend, codec: TextCodec) -> None:
        self._wire = wire
        self._backend = backend
        self._codec = codec
        self._cancelled: set[int] = set()
        self._later: deque[Message] = deque()

    def run(self) -> None:
        """Until asked to stop. Raises ConnectionError when the front is gone."""
        while True:
            message = self._later.popleft() if self._later else self._wire.receive()
            if message is None or message["kind"] == "stop":
                return
            if message["kind"] == "batch":
                self._cancelled.clear()
                self._wire.send(*self.answer(message["jobs"]), {"kind": "batch_done", "batch": message["batch"]})

    def answer(self, jobs: Sequence[Message]) -> list[Message]:
        """The finished message of every job of one batch."""
        done: list[Message] = []
        answers: list[Answer] = []
        for job in jobs:
            try:
                answers.append(Answer(job, self._codec))
            except Exception as error:  # the boundary of one request: its text, which no tokenizer may have met before
                done.append(failure(job["id"], error))
        try:
            done += self._generate(answers)
        except Exception as error:  # the boundary of one request batch: the model failed, the worker lives on
            if not isinstance(error, RequestInvalid):
                traceback.print_exc()
            done += self._one_by_one(answers, error)
        return done

    def _one_by_one(self, answers: Sequence[Answer], error: Exception) -> list[Message]:
        """The jobs of a batch that failed, each asked alone, so that only the one at fault fails. A stream that has
        begun cannot begin again."""
        done: list[Message] = []
        for answer in answers:
            if len(answers) == 1 or answer.has_begun_to_stream:
                done.append(failure(answer.job_id, error))
            else:
                done += self.answer([answer.job])
        return done

    def _generate(self, answers: Sequence[Answer]) -> list[Message]:
        if not answers:
            return []
        steps = self._backend.generate([answer.request for answer in answers])
        for events in steps:
            tokens = [message for event in events for message in answers[event.index].take(event)]
            if tokens:
                self._wire.send(*tokens)
            if self._are_all_cancelled(answers):
                _close(steps)
                return [failure(answer.job_id, RequestInvalid("cancelled by the client")) for answer in answers]
            if any(answer.is_stopped for answer in answers) and all(answer.is_finished for answer in answers):
                _close(steps)
                break
        return [answer.done_message() for answer in answers]

    def _are_all_cancelled(self, answers: Sequence[Answer]) -> bool:
        while (message := self._wire.poll()) is not None:
            if message["kind"] == "cancel":
                self._cancelled.update(message["jobs"])
            else:
                self._later.append(message)
        return bool(self._cancelled) and all(answer.job_id in self._cancelled for answer in answers)


class RollingLoop:
    """In-flight batching: jobs join and leave at token boundaries; each answer is sent as soon as it is complete."""

    def __init__(self, wire: BlockingWire, backend: RollingBackend, codec: TextCodec) -> None:
        self._wire = wire
        self._backend = backend
        self._steps: Callable[[float], Sequence[TokenEvent]] | None = getattr(backend, "several_steps", None)
        self._codec = codec
        self._waiting: deque[Answer] = deque()
        self._suspects: deque[Answer] = deque()
        """Of a step that failed: each is asked again alone, so that only the one at fault fails."""
        self._active: dict[int, Answer] = {}

    def run(self) -> None:
        """Until asked to stop. Raises ConnectionError when the front is gone."""
        while True:
            is_idle = not self._waiting and not self._active and not self._suspects
            message = self._wire.receive() if is_idle else self._wire.poll()
            if is_idle and message is None:
                return
            while message is not None:
                if message["kind"] == "stop":
                    return
                self._handle(message)
                message = self._wire.poll()
            self._admit()
            if self._active:
                self._step()

    def _handle(self, message: Message) -> None:
        if message["kind"] == "admit":
            try:
                self._waiting.append(Answer(message["job"], self._codec))
            except Exception as error:  # the boundary of one request: its text
                self._wire.send(failure(message["job"]["id"], error))
        elif message["kind"] == "cancel":
            jobs = set(message["jobs"])
            for line in (self._waiting, self._suspects):
                kept = [answer for answer in line if answer.job_id not in jobs]
                line.clear()
                line.extend(kept)
            for index in [index for index, answer in self._active.items() if answer.job_id in jobs]:
                del self._active[index]
                self._backend.cancel(index)

    def _admit(self) -> None:
        while self._waiting or self._suspects:
            is_alone = bool(self._suspects)
            if is_alone and self._active:
                return
            line = self._suspects or self._waiting
            answer = line[0]
            try:
                index = self._backend.admit(answer.request)
            except Exception as error:  # the boundary of one request
                line.popleft()
                self._wire.send(failure(answer.job_id, error))
                continue
            if index is None:
                return
            self._active[index] = line.popleft()
            if is_alone:
                return

    def _step(self) -> None:
        try:
            events: Sequence[TokenEvent] = self._next_events()
        except Exception as error:  # one step serves every active request; the worker lives on
            traceback.print_exc()
            failed, self._active = self._active, {}
            for index, one in failed.items():
                self._backend.cancel(index)
                if len(failed) == 1 or one.has_begun_to_stream:
                    self._wire.send(failure(one.job_id, error))
                else:
                    self._suspects.append(Answer(one.job, self._codec))
            return
        messages: list[Message] = []
        for event in events:
            answer = self._active.get(event.index)
            if answer is not None and answer.is_quiet and event.finish is None:
                answer.note(event)
            elif answer is not None:
                messages += self._taken(answer, event)
        if messages:
            self._wire.send(*messages)

    def _next_events(self) -> Sequence[TokenEvent]:
        """One step's where somebody streams, else those of LOOK_EVERY_S: nobody sees them one by one."""
        if self._steps is None or any(answer.job["wants_stream"] for answer in self._active.values()):
            return self._backend.step()
        return self._steps(LOOK_EVERY_S)

    def _taken(self, answer: Answer, event: TokenEvent) -> list[Message]:
        """What one event adds to the answer it belongs to."""
        try:
            messages = answer.take(event)
            if answer.is_finished:
                del self._active[event.index]
                messages.append(answer.done_message())
                if event.finish is None:  # a stop string ended it; the backend does not know
                    self._backend.cancel(event.index)
        except Exception as error:  # the boundary of one request: its tokens, which no text may have
            if self._active.pop(event.index, None) is not None:
                self._backend.cancel(event.index)
            return [failure(answer.job_id, error)]
        return messages


def failure(job_id: int, error: Exception) -> Message:
    """The message that fails one job: a RequestInvalid is the client's fault, everything else the model's."""
    if isinstance(error, RequestInvalid):
        return {"kind": "done", "job": job_id, "error": "RequestInvalid", "message": str(error)}
    return {"kind": "done", "job": job_id, "error": "ModelError", "message": f"{type(error).__name__}: {error}"}


def _close(steps: Iterator[Sequence[TokenEvent]]) -> None:
    close = getattr(steps, "close", None)
    if close is not None:
        close()


if __name__ == "__main__":
    main()
