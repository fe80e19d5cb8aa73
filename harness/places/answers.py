"""The answers of a machine to the questions of a search, given in the process of at_place.py."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from engines.api import Capabilities
from engines.errors import EngineError
from engines.processes.no_proxy import keep_direct
from harness.errors import DynoError
from harness.measure.machine.facts import git_commit
from harness.measure.machine.machine_class import TEST_PLACE, this_machine
from harness.places.being_prepared import install, look
from harness.places.machine_lock import holder, machine_lock
from harness.places.proof import engine_versions, proof
from harness.places.requests import Described, EngineThere, Install, Joined, Look, Measure, Question, Verb
from harness.records import Trial
from harness.space.capabilities import engine_capabilities
from harness.store.archive import DamagedArchive, pack
from harness.store.codec import from_json, to_json
from harness.store.disk import write_bytes
from harness.store.run_folder import create_run
from harness.trial.bench import Bench
from harness.trial.progress import Lines

REFUSED = 3
"""Exit status after a refusal."""


def answer(verb: str, reply: Path) -> int:
    """Answers the request on standard input; the exit status, 0: `reply` is there, REFUSED: the sentence why not."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    keep_direct()
    request = json.loads(sys.stdin.buffer.read())
    try:
        found = VERBS[verb](request, reply.parent)  # type: ignore[index]
    except (DynoError, EngineError, OSError, DamagedArchive) as error:
        reply.with_suffix(".refused").write_text(str(error) or type(error).__name__, encoding="utf-8")
        return REFUSED
    reply.write_bytes(found)
    return 0


def describe(request: Any, folder: Path) -> bytes:
    """Described: this machine, and who measures on it."""
    here = this_machine()
    return _json(Described(machine=here, holder=holder(here.machine_id)))


def capabilities(request: Any, folder: Path) -> bytes:
    """What the EngineThere of `request` can do here: {"able": Capabilities} or {"not": Availability}."""
    asked = from_json(EngineThere, request)
    found = engine_capabilities(asked.engine, asked.python, asked.command, asked.image)
    return json.dumps({"able" if isinstance(found, Capabilities) else "not": to_json(found)}).encode()


def join(request: Any, folder: Path) -> bytes:
    """Joined: the proof that this machine would answer the Question of `request` as the others do."""
    resolved = from_json(Question, request).resolved()
    return _json(Joined(machine=this_machine(), proof=proof(resolved), engines=engine_versions(resolved)))


def measure(request: Any, folder: Path) -> bytes:
    """The archive of the trial that the Measure of `request` orders; `folder` holds its files until then."""
    asked = from_json(Measure, request)
    resolved = asked.question.resolved()
    new_run = partial(create_run, resolved, folder, git_commit())
    with locked(this_machine().machine_id, asked) as attempt:
        opening = Bench.open(resolved, new_run, progress=Lines(_note), reference=attempt.reference)
        with opening as bench:
            with _raced(bench, attempt):
                trial = _run(bench, attempt, folder)
            if attempt.terms is not None:
                against = f"raced against {attempt.terms.against}, which this machine measured too"
                trial = replace(trial, notes=(*trial.notes, against))
            if os.environ.get(TEST_PLACE):
                note = f"{TEST_PLACE} named its machine, which stood for several places"
                trial = replace(trial, notes=(*trial.notes, note))
            return pack(bench.writer.layout, trial, attempt.token)


@contextmanager
def locked(machine_id: str, attempt: Measure) -> Iterator[Measure]:
    """Keeps the machine for the attempt; what is left of the search shrinks by the wait for it."""
    begun_s = time.monotonic()
    with machine_lock(machine_id, attempt.search):
        waited_s = time.monotonic() - begun_s
        yield replace(attempt, left_s=max(0.0, attempt.left_s - waited_s))


def _run(bench: Bench, attempt: Measure, folder: Path) -> Trial:
    if attempt.started:
        for name, content in attempt.written.items():
            path = folder / "written" / Path(name).name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(base64.b64decode(content))
        return bench.run_file(folder / "written" / attempt.started, attempt.candidate, attempt.number)
    return bench.run(
        attempt.candidate,
        attempt.number,
        prefix=attempt.prefix,
        left_s=attempt.left_s,
        judged=attempt.judged,
        order=attempt.repetition,
        terms=attempt.terms,
    )


@contextmanager
def _raced(bench: Bench, attempt: Measure) -> Iterator[None]:
    """The requests of the trial that is raced against are in the run folder, and not in the archive."""
    if attempt.terms is None:
        yield
        return
    path = bench.writer.layout.requests(attempt.terms.against)
    write_bytes(path, base64.b64decode(attempt.raced))
    try:
        yield
    finally:
        path.unlink()


VERBS: Mapping[Verb, Callable[[Any, Path], bytes]] = {
    "describe": describe,
    "capabilities": capabilities,
    "join": join,
    "measure": measure,
    "look": lambda request, folder: _json(look(from_json(Look, request))),
    "install": lambda request, folder: _json(install(from_json(Install, request), folder, _note)),
}


def _json(record: Any) -> bytes:
    return json.dumps(to_json(record)).encode()


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
