"""Preparing the machines of a cluster for a search: this dynamometer, engine environments, weights and prompts.

Each machine goes through the same steps beside the others, one question at a time; a step that is done is not done
again, so the same command continues where it was stopped. In the end each proves what a search would ask it to prove.
"""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from engines.cache_folder import cache_root
from engines.models.folder import resolve_model
from harness.places.brought import PIECE_BYTES, Piece, Stored, file_sha256
from harness.places.cluster import Cluster, Lost, Refused, Task, short
from harness.places.own_wheel import write_wheel
from harness.places.proof import difference, proof
from harness.places.requests import Has, Install, Installed, Item, Joined, Look, Question, Verb, sent_model
from harness.places.survey import Found
from harness.scenario.resolve import ResolvedScenario
from harness.store.codec import from_json, to_json

LIMIT_S: Mapping[Verb, float] = {"look": 900.0, "join": 900.0, "receive": 900.0, "install": 3600.0}
"""Until a question counts as never answered: hashing takes some seconds for each 10 GB, an environment many minutes."""
WAIT_S = 5.0
SHOW_S = 10.0
"""Between two lines about one transfer."""

Steps = Generator[tuple[Verb, str], bytes, None]
"""Questions to one machine, each answered before the next. Lost and Refused are thrown in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What became of a machine: what was done there, and why it is not ready, '' where it is."""

    node: str
    machine: str
    did: tuple[str, ...] = ()
    why_not: str = ""


class Load:
    """All that a search needs on each machine, as it is here. Raises EngineError for a model that is not here, OSError
    for another file."""

    def __init__(self, resolved: ResolvedScenario, folder: Path) -> None:
        """`folder` is kept until every machine has what it needs."""
        self.question = Question.of(resolved)
        self.proof = proof(resolved)
        self.sources: dict[str, Path] = {}
        self.items = tuple(self._items(resolved))
        self._folder = folder

    @cached_property
    def wheel(self) -> Item:
        """This dynamometer, packed when the first machine needs it."""
        path = write_wheel(self._folder)
        return self._item(f"/wheels/{self.proof['code'][:16]}/{path.name}", path)

    def file(self, path: str) -> Stored:
        """What a path to be sent must be."""
        for item in (*self.items, self.wheel) if path.startswith("/wheels/") else self.items:
            for name, file in item.files.items():
                if path == (f"{item.path}/{name}" if name else item.path):
                    return file
        raise KeyError(path)

    def _items(self, resolved: ResolvedScenario) -> Iterator[Item]:
        files = (resolved.prompts_path, resolved.trace_path, resolved.corpus_path, resolved.locustfile_path)
        for path in [each for each in (*files, resolved.reference_folder) if each is not None]:
            yield self._item(str(path), path)
        model = resolved.model
        if not resolved.scenario.reads_model or model.kind == "shape":
            return  # a shape's weights are made on each machine, from its seed
        local = Path(model.value)
        if model.kind != "gguf":
            local = resolve_model(model.kind, model.value, model.seed, cache_root())
        yield self._item(sent_model(model.kind, model.value), local, is_weights=True)

    def _item(self, path: str, local: Path, *, is_weights: bool = False) -> Item:
        inside = (
            {each.name: each for each in sorted(local.iterdir()) if each.is_file()} if local.is_dir() else {"": local}
        )
        files = {}
        for name, each in inside.items():
            self.sources[f"{path}/{name}" if name else path] = each
            files[name] = Stored(sha256=file_sha256(each), size_bytes=each.stat().st_size)
        return Item(path=path, files=files, is_weights=is_weights)


@dataclass(slots=True)
class _Place:
    """One machine on its way: the question that it is asked and until when it may answer."""

    node: str
    name: str
    steps: Steps
    did: list[str]
    verb: Verb = "look"
    until_s: float = 0.0


@dataclass(slots=True)
class Preparation:
    """Prepares machines of `cluster`; `note` gets a line for each step of each."""

    cluster: Cluster
    load: Load
    note: Callable[[str], None]
    now: Callable[[], float] = time.monotonic
    _asked: dict[Task, _Place] = field(default_factory=dict)
    _ended: dict[str, Prepared] = field(default_factory=dict)

    def run(self, found: Sequence[Found]) -> tuple[Prepared, ...]:
        """What became of each; interrupted, what is under way there is ended."""
        try:
            for each in found:
                self._begin(each)
            while self._asked:
                task = self.cluster.wait(list(self._asked), WAIT_S)
                if task is not None:
                    self._answered(task)
                self._drop_silent()
        finally:
            for task in self._asked:
                self.cluster.cancel(task, is_killed=True)
        return tuple(self._ended[each.node] for each in found)

    def _begin(self, found: Found) -> None:
        if found.described is None:
            self._end(Prepared(node=found.node, machine="", why_not=found.why))
            return
        name, holder = found.described.machine.machine_id, found.described.holder
        if holder:
            why = f"it is busy, process {holder} measures there; run the same command again once it is free"
            self._end(Prepared(node=found.node, machine=name, why_not=why))
            return
        did: list[str] = []
        place = _Place(found.node, name, self._steps(name, did), did)
        self._go_on(place, lambda: next(place.steps))

    def _go_on(self, place: _Place, step: Callable[[], tuple[Verb, str]]) -> None:
        """Ask the next question, unless there is none."""
        try:
            place.verb, request = step()
        except StopIteration:
            self._end(Prepared(node=place.node, machine=place.name, did=tuple(place.did)))
        except (Refused, Lost, OSError) as error:
            self._end(Prepared(node=place.node, machine=place.name, did=tuple(place.did), why_not=str(error)))
        else:
            place.until_s = self.now() + LIMIT_S[place.verb]
            self._asked[self.cluster.ask(place.node, place.verb, request)] = place

    def _answered(self, task: Task) -> None:
        place = self._asked.pop(task)
        try:
            answer = self.cluster.answer(task)
        except (Refused, Lost) as error:
            failed = error
            self._go_on(place, lambda: place.steps.throw(failed))
        else:
            self._go_on(place, lambda: place.steps.send(answer))

    def _drop_silent(self) -> None:
        for task, place in [each for each in self._asked.items() if each[1].until_s < self.now()]:
            del self._asked[task]
            self.cluster.cancel(task, is_killed=True)
            why = f"no answer to {place.verb!r} within {LIMIT_S[place.verb]:g} s; run the same command again"
            self._end(Prepared(node=place.node, machine=place.name, did=tuple(place.did), why_not=why))

    def _end(self, prepared: Prepared) -> None:
        self._ended[prepared.node] = prepared
        name = f"machine {prepared.machine}" if prepared.machine else f"node {short(prepared.node)}"
        self.note(f"{name}: {f'not ready: {prepared.why_not}' if prepared.why_not else 'ready'}")

    def _steps(self, name: str, did: list[str]) -> Steps:
        """The questions to one machine, in turn; what was done goes into `did`."""
        load = self.load
        has = yield from self._look()
        if has.code != load.proof["code"]:
            if has.fixed:
                raise Refused(f"{has.fixed}; bring it to commit {load.proof['commit'] or 'of this machine'}")
            path = load.wheel.path
            yield from self._send(name, {path: 0}, has, did)
            self.note(f"machine {name}: installing {Path(path).name}")
            yield from self._install(Install(wheel=path), did)
            has = yield from self._look()
            if has.code != load.proof["code"]:
                raise Refused("its dynamometer is another one after the installation too; install it by hand")
        yield from self._send(name, has.missing, has, did)
        for engine in has.installable:
            self.note(f"machine {name}: installing the environment of {engine} ({has.lacking[engine]})")
            yield from self._install(Install(engine=engine), did)
        if has.installable:
            has = yield from self._look()
        did += [f"without {engine}: {why}" for engine, why in has.lacking.items()]
        joined = from_json(Joined, (yield from _asked("join", load.question)))
        if differs := difference(load.proof, joined.proof):
            raise Refused(f"it would still not answer the same question ({differs})")

    def _look(self) -> Generator[tuple[Verb, str], bytes, Has]:
        try:
            return from_json(Has, (yield from _asked("look", Look(question=self.load.question, items=self.load.items))))
        except Lost as error:
            raise Lost(
                f"it does not answer what it has ({error}); where it has an older dynamometer, install this one there"
            ) from error

    def _install(self, asked: Install, did: list[str]) -> Generator[tuple[Verb, str], bytes, None]:
        did.append(from_json(Installed, (yield from _asked("install", asked))).what)

    def _send(self, name: str, missing: Mapping[str, int], has: Has, did: list[str]) -> Steps:
        """Every missing file, from where an earlier transfer ended."""
        files = {path: self.load.file(path) for path in missing}
        total = sum(file.size_bytes for file in files.values())
        left = total - sum(missing.values())
        if left > has.free_bytes:
            raise Refused(
                f"{_size(left)} are to be brought and {_size(has.free_bytes)} are free in {has.cache}; free space "
                "there or point DYNO_CACHE at another disk"
            )
        if not files:
            return
        self.note(f"machine {name}: bringing {len(files)} file{'s'[: len(files) > 1]}, {_size(left)}")
        shown_s, here = self.now(), total - left
        for path, file in files.items():
            at = missing[path]
            while True:
                with self.load.sources[path].open("rb") as source:
                    source.seek(at)
                    content = base64.b64encode(source.read(PIECE_BYTES)).decode("ascii")
                if not content and file.size_bytes:
                    raise Refused(f"{path} changed while it was sent; run the same command again")
                piece = Piece(path=path, file=file, offset=at, content=content)
                arrived = int((yield from _asked("receive", piece)))
                here, at = here + arrived - at, arrived
                if at >= file.size_bytes:
                    break
                if self.now() - shown_s >= SHOW_S:
                    shown_s = self.now()
                    self.note(f"machine {name}: {_size(here)} of {_size(total)} are there")
        did.append(f"brought {len(files)} file{'s'[: len(files) > 1]}, {_size(left)}")


def prepare(
    cluster: Cluster, found: Sequence[Found], resolved: ResolvedScenario, note: Callable[[str], None]
) -> tuple[Prepared, ...]:
    """Bring what a search of `resolved` needs to every machine; what became of each. Raises EngineError, OSError where
    something is missing here."""
    with tempfile.TemporaryDirectory(prefix="dyno-wheel") as folder:
        note("hashing what the scenario reads")
        return Preparation(cluster, Load(resolved, Path(folder)), note).run(found)


def _asked(verb: Verb, request: Any) -> Generator[tuple[Verb, str], bytes, Any]:
    """The answer to one question, as JSON."""
    return json.loads((yield verb, json.dumps(to_json(request))))


def _size(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"
