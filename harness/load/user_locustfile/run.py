"""Running a user's locustfile as the load: its User classes run as in Locust, every `request` event is kept.

Importing this file patches the whole process (gevent): only a load process does it. The locustfile is the user's code;
it is imported here and nowhere else, and only because the scenario names it.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import gevent
from gevent.event import AsyncResult, Event
from locust.env import Environment
from locust.user.users import User
from locust.util.load_locustfile import is_shape_class, load_locustfile

from harness.load.client.connection_pool import publish, publish_on, watch_parent
from harness.load.client.locust_runner import PROGRESS_S, leave
from harness.load.plan import BAD_LOCUSTFILE_STATUS, LoadPlan, share_of
from harness.load.prompts.prompts_file import RequestOrder
from harness.load.protocol.request_form import form_of
from harness.load.user_locustfile.events import FiredRequest
from harness.records import DoubtKind, Prompt
from harness.units import NS_PER_MS, NS_PER_S

HOPELESS_ERRORS = 50
"""So many exceptions in tasks without one request: the locustfile does not work, and waiting will not help."""
ERROR_LENGTH = 300


class BadLocustfile(Exception):
    """The sentence that refuses a locustfile; begins with file:line where there is one."""


class Note:
    """What a task knows about one request that Locust does not: pass it as context={'dyno': note}.

    `token()` stamps the arrival of a token (the first one gives TTFT), `end()` the end of an answer that was read
    after Locust's own clock had stopped (stream=True); then latency ends there. All are optional.
    """

    __slots__ = ("answer", "end_ns", "input_tokens", "output_tokens", "prompt_id", "token_ns")

    def __init__(self, prompt_id: str = "") -> None:
        self.prompt_id = prompt_id
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.answer: str | None = None
        self.token_ns: list[int] = []
        self.end_ns: int | None = None

    def token(self) -> None:
        """A token is here now."""
        self.token_ns.append(time.monotonic_ns())

    def end(self) -> None:
        """The answer is complete now."""
        self.end_ns = time.monotonic_ns()


class Dyno:
    """`self.environment.dyno` of a locustfile: the scenario's prompts and parameters, and `note`.

    `path` is the address's path, `body(prompt)` the JSON body that Dynamometer itself would send there.
    """

    def __init__(self, plan: LoadPlan, part: int) -> None:
        self._form = form_of(plan)
        self.prompts = plan.prompts
        self.parameters: Mapping[str, object] = dict(plan.parameters)
        self.model_name, self.protocol, self.stream, self.path = (
            plan.model_name, plan.protocol, plan.stream, self._form.address.path,
        )  # fmt: skip
        self._order = RequestOrder(plan.prompts, 1, plan.seed)
        self._numbers: Iterator[int] = itertools.count(part, plan.processes)

    def next_prompt(self) -> Prompt:
        """The next prompt of the scenario's seeded order, shared by all users; `.prompt_id`, `.task`, `.text`."""
        return self._order.measured(next(self._numbers))[0]

    def body(self, prompt: Prompt) -> Any:
        """The JSON value to post for one prompt."""
        return json.loads(self._form.body((prompt,)))

    def note(self, prompt: Prompt | None = None) -> Note:
        """A fresh note, about this prompt."""
        return Note(prompt.prompt_id if prompt is not None else "")


def classes_of(path: Path, sha256: str = "") -> list[type[User]]:
    """The User classes of a locustfile. Raises BadLocustfile: missing, changed since it was hashed, does not import,
    holds none, or holds a LoadTestShape (the scenario states how many users there are)."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BadLocustfile(f"{path}:1: expected a locustfile, got {error.strerror}") from error
    if sha256 and found != sha256:
        raise BadLocustfile(
            f"{path}:1: changed since this run began (SHA-256 {sha256[:10]}... then, {found[:10]}... now); "
            "begin a new run with --new"
        )
    try:
        classes, shapes = load_locustfile(str(path))
    except (Exception, SystemExit) as error:
        raise BadLocustfile(
            f"{_where(error.__traceback__, path, error)}: cannot be imported: {_message(error)}"
        ) from error
    if shapes:
        kind = type(shapes[0])
        raise BadLocustfile(
            f"{path}:{kind.__dict__.get('__firstlineno__') or _line_of(path, kind.__name__)}: expected User classes "
            f"only, got the LoadTestShape {kind.__name__}; workload.load.users and workload.spawn_per_s set how many "
            "users there are, remove it"
        )
    own = [each for each in classes.values() if not is_shape_class(each)]
    if not own:
        raise BadLocustfile(
            f"{path}:1: expected a class derived from locust.User (HttpUser, FastHttpUser ...) that is not abstract, "
            "got none; see https://docs.locust.io/en/stable/writing-a-locustfile.html"
        )
    if lazy := next((each for each in own if not each.tasks), None):
        raise BadLocustfile(
            f"{path}:{_line_of(path, lazy.__name__)}: expected tasks in {lazy.__name__}, got none; mark a method @task"
        )
    return own


def _line_of(path: Path, name: str) -> int:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((n for n, line in enumerate(lines, 1) if line.lstrip().startswith(f"class {name}")), 1)


def _where(trace: TracebackType | None, path: Path, error: BaseException) -> str:
    """'file:line' of the innermost frame in the locustfile's folder."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno or 1}"
    frames = [frame for frame in traceback.extract_tb(trace) if Path(frame.filename).parent == path.parent]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else f"{path}:1"


def _message(error: BaseException) -> str:
    hint = "; install it in this environment" if isinstance(error, ModuleNotFoundError) else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:ERROR_LENGTH] + hint


class Ledger:
    """Turns `request` events into lines of the process's file, and counts the exceptions of tasks."""

    def __init__(self, path: Path, locustfile: Path) -> None:
        self._file = path.open("wb", buffering=1 << 20)
        self._locustfile = locustfile
        self._users: dict[int, int] = {}
        self._born_ns = time.monotonic_ns()
        self.begin_ns = self.stop_ns = 1 << 62
        self.fired = self.measured = self.errors = 0
        self.first_error = ""
        self.wanted = 0
        self.is_enough = Event()

    def on_request(self, request_type: str, name: str, response_time: float, **meta: Any) -> None:
        """Locust's event; never raises for what a locustfile passes."""
        fired_ns = time.monotonic_ns()
        note = (meta.get("context") or {}).get("dyno")
        note = note if isinstance(note, Note) else Note()
        sent_ns, done_ns = self._times(fired_ns, response_time, meta.get("start_time"), note)
        failure, error, status = _judged(meta.get("response"), meta.get("exception"))
        is_measured = self.begin_ns <= sent_ns < self.stop_ns
        self.fired += 1
        self.measured += is_measured
        one = FiredRequest(
            user=self._users.setdefault(id(gevent.getcurrent()), len(self._users)),
            name=f"{request_type} {name}".strip(),
            is_measured=is_measured,
            sent_ns=sent_ns,
            done_ns=done_ns,
            status_code=status,
            failure=failure,
            error=error,
            prompt_id=str(note.prompt_id),
            input_tokens=_count(note.input_tokens),
            output_tokens=_count(note.output_tokens),
            token_ns=tuple(note.token_ns),
            answer=None if note.answer is None else str(note.answer),
        )
        self._file.write(one.line())
        if self.measured >= self.wanted:
            self.is_enough.set()

    def _times(self, fired_ns: int, response_time: object, start_time: object, note: Note) -> tuple[int, int]:
        """(sent, done) in monotonic ns. Locust times an answer in floating-point milliseconds of a monotonic clock and
        its send in wall time; the wall time is used where it fits (it may have been set), else the event's own."""
        taken_ns = round(response_time * NS_PER_MS) if isinstance(response_time, int | float) else 0
        sent_ns = fired_ns - taken_ns
        if isinstance(start_time, int | float):
            by_wall_ns = fired_ns - (time.time_ns() - round(start_time * NS_PER_S))
            if self._born_ns <= by_wall_ns <= sent_ns:
                sent_ns = by_wall_ns
        done_ns = sent_ns + taken_ns
        if note.end_ns is not None:
            done_ns = max(done_ns, note.end_ns)
        elif note.token_ns:
            done_ns = max(done_ns, note.token_ns[-1])
        return sent_ns, done_ns

    def on_error(self, user_instance: object, exception: BaseException, tb: TracebackType | None) -> None:
        """An exception left a task or on_start."""
        self.errors += 1
        if not self.first_error:
            self.first_error = f"{_where(tb, self._locustfile, exception)}: {_message(exception)}"

    def flush(self) -> None:
        """Hand the buffered lines to the kernel. Raises OSError."""
        self._file.flush()

    def close(self) -> None:
        """Close the file. Raises OSError."""
        self._file.close()


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _judged(response: object, exception: object) -> tuple[str, str, int]:
    """(failure, error, status code; 0 where there is none)."""
    code = getattr(response, "status_code", 0)
    status = code if isinstance(code, int) else 0
    if exception is None or exception is False:
        return "", "", status
    kinds = [kind.__name__.lower() for kind in type(exception).__mro__]
    error = f"{type(exception).__name__}: {exception}" if isinstance(exception, BaseException) else str(exception)
    error = error[:ERROR_LENGTH]
    if any("timeout" in kind or "timedout" in kind for kind in kinds):
        return "timed_out", error, status
    if status:
        return "refused", error, status
    return "connection_failed" if isinstance(exception, OSError) or response is not None else "failed", error, 0


def run_part(plan: LoadPlan, workdir: Path, part: int) -> None:
    """Be load process number `part`: prints 'warm', waits for 'go <ns>', prints 'done <n>', 'doubt <json>', 'end
    <s>'."""
    publish_on(os.dup(1))
    os.dup2(2, 1)  # what the locustfile prints goes to the log
    logging.getLogger("locust").setLevel(logging.ERROR)
    path = Path(plan.locustfile)
    try:
        classes = classes_of(path, plan.locustfile_sha256)
    except BadLocustfile as error:
        _refuse(str(error))
    ledger = Ledger(workdir / f"raw-{part}.jsonl", path)
    go: AsyncResult = AsyncResult()
    gevent.spawn(watch_parent, lambda line: _receive(go, line), lambda: os._exit(0))
    try:
        _run(plan, part, classes, ledger, go)
    except OSError as error:
        leave(error)


def _refuse(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
    os._exit(BAD_LOCUSTFILE_STATUS)


def _receive(go: AsyncResult, line: str) -> None:
    word, _, begin_ns = line.partition(" ")
    if word == "go":
        go.set(int(begin_ns))


def _environment(plan: LoadPlan, part: int, classes: list[type[User]], ledger: Ledger) -> Environment:
    parts = urlsplit(plan.endpoint_url)
    environment = Environment(
        user_classes=classes, host=f"{parts.scheme}://{parts.netloc}", stop_timeout=plan.request_timeout_s
    )
    environment.dyno = Dyno(plan, part)
    environment.events.request.add_listener(ledger.on_request)
    environment.events.user_error.add_listener(ledger.on_error)
    return environment


def _run(plan: LoadPlan, part: int, classes: list[type[User]], ledger: Ledger, go: AsyncResult) -> None:
    environment = _environment(plan, part, classes, ledger)
    runner = environment.create_local_runner()
    environment.events.init.fire(environment=environment, runner=runner, web_ui=None)
    users = share_of(plan.users, part, plan.processes)
    runner.start(users, spawn_rate=plan.spawn_per_s / plan.processes if plan.spawn_per_s else users)
    warmup = share_of(plan.warmup_requests, part, plan.processes)
    while ledger.fired < warmup or (runner.spawning_greenlet and not runner.spawning_greenlet.ready()):
        gevent.sleep(PROGRESS_S / 10)
        _give_up(ledger, runner.user_count, runner.spawning_greenlet)
    gc.collect()
    gc.freeze()
    publish("warm")
    ledger.begin_ns = begin_ns = go.get()
    end_ns = begin_ns + int(plan.max_duration_s * NS_PER_S)
    ledger.wanted = share_of(plan.requests, part, plan.processes)
    ledger.is_enough.clear()
    cpu_s = time.process_time()
    while not ledger.is_enough.is_set() and time.monotonic_ns() < end_ns and runner.user_count:
        ledger.is_enough.wait(min(PROGRESS_S, max(0.0, (end_ns - time.monotonic_ns()) / NS_PER_S)))
        ledger.flush()
        publish(f"done {ledger.measured}")
    ledger.stop_ns = time.monotonic_ns()
    runner.stop()  # users finish their task, for at most request_timeout_s
    stopped_s = (time.monotonic_ns() - ledger.stop_ns) / NS_PER_S
    _publish_doubts(ledger, is_cut=stopped_s >= plan.request_timeout_s, timeout_s=plan.request_timeout_s)
    ledger.close()
    publish(f"done {ledger.measured}")
    publish(f"end {time.process_time() - cpu_s:.6f}")
    runner.quit()


def _give_up(ledger: Ledger, users: int, spawning: Any) -> None:
    """A locustfile whose users all died, or only raise, is refused: no request will ever come."""
    is_dead = users == 0 and (spawning is None or spawning.ready())
    if ledger.fired == 0 and (is_dead or ledger.errors >= HOPELESS_ERRORS):
        why = ledger.first_error or "every user stopped by itself"
        _refuse(f"{why} (no request was sent; {ledger.errors} exceptions in the users' tasks)")


def _publish_doubts(ledger: Ledger, *, is_cut: bool, timeout_s: float) -> None:
    if ledger.errors:
        left = f"{ledger.errors} exceptions left the locustfile's tasks, the first one at {ledger.first_error}"
        _doubt("task_errors", left)
    if is_cut:
        _doubt(
            "cut_off",
            f"users whose task did not end within request_timeout_s = {timeout_s:g} s were cut off; "
            "their last requests are in no number",
        )


def _doubt(kind: DoubtKind, sentence: str) -> None:
    publish(f"doubt {json.dumps({'kind': kind, 'sentence': sentence})}")
