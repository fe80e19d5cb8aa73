"""Preparing machines: what is missing is brought and proven, what is there stays, and every failure is one sentence."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from engines.api import Availability
from harness.cli import machines
from harness.measure.machine.machine_class import Machine
from harness.places import being_prepared, prepare
from harness.places import proof as proof_module
from harness.places.being_prepared import look
from harness.places.brought import Piece, Stored, brought_path, receive
from harness.places.cluster import Lost, Refused
from harness.places.own_wheel import write_wheel
from harness.places.prepare import Load, Prepared
from harness.places.requests import Described, Install, Installed, Joined, Look, Question, Verb
from harness.places.survey import survey
from harness.scenario.load import load_scenario
from harness.scenario.resolve import BUNDLED_MODEL, ResolvedScenario, resolve
from harness.store.codec import from_json, to_json
from tests.harness.places.in_memory_cluster import InMemoryCluster

MACHINES = {name: Machine(machine_id=f"m{name[1]}", facts={"cores": 8}) for name in ("n1", "n2", "n3")}


class PreparedCluster(InMemoryCluster):
    """The nodes answer with the real functions, each in another cache folder. `codes`: what hash of dynamometer a node
    has; `holders`: who measures there; `faults`: node and verb -> what its questions are answered with."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, machines: dict[str, Machine]) -> None:
        super().__init__(folder, machines)
        self._monkeypatch, self._caches = monkeypatch, folder
        self.codes: dict[str, str] = {}
        self.holders: dict[str, str] = {}
        self.faults: dict[tuple[str, str], Exception] = {}
        self.pieces: list[tuple[str, int]] = []
        self.installed: list[tuple[str, Install]] = []
        self.stop_after = 1_000_000

    def cache(self, node: str) -> Path:
        return self._caches / f"cache-{node}"

    def _answer(self, node: str, verb: Verb, request: str) -> tuple[float, bytes | Exception]:
        if fault := self.faults.get((node, verb)):
            return 1.0, fault
        with self._monkeypatch.context() as there:
            there.setenv("DYNO_CACHE", str(self.cache(node)))
            if node in self.codes:
                there.setattr(being_prepared, "code_sha256", lambda: self.codes[node])
            return 1.0, self._answered(node, verb, json.loads(request))

    def _answered(self, node: str, verb: Verb, request: Any) -> bytes | Exception:
        machine = self.machines[node]
        if verb == "describe":
            return _json(Described(machine=machine, holder=self.holders.get(node, "")))
        if verb == "look":
            return _json(look(from_json(Look, request)))
        if verb == "receive":
            if len(self.pieces) >= self.stop_after:
                raise KeyboardInterrupt
            self.pieces.append((node, request["offset"]))
            reply, refused = receive(json.dumps(request))
            return Refused(refused) if refused else reply
        if verb == "install":
            self.installed.append((node, from_json(Install, request)))
            self.codes.pop(node, None)
            return _json(Installed(what="it was installed"))
        assert verb == "join"
        return _json(
            Joined(machine=machine, proof=proof_module.proof(from_json(Question, request).resolved()), engines={})
        )


def _json(record: object) -> bytes:
    return json.dumps(to_json(record)).encode()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A scenario whose prompts and model can be taken away, as on a machine that has neither."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "p.jsonl").write_text('{"prompt": "a"}\n' * 40)
    model = folder / "model"
    model.mkdir()
    for path in BUNDLED_MODEL.iterdir():
        if path.is_file():
            (model / path.name).write_bytes(path.read_bytes())
    (folder / "s.yaml").write_text(
        "name: s\nmodel: {path: model}\nworkload: {load: {kind: closed, users: 1}, prompts: p.jsonl, requests: 10}\n"
        "quality: {prompts: 2}\nspace: [{engine: t5}]\n"
    )
    return folder / "s.yaml"


def _resolved(path: Path) -> ResolvedScenario:
    return resolve(load_scenario(path), path)


class Bench:
    """A preparation whose files are away while a machine looks for them: machines are not this one."""

    def __init__(self, cluster: PreparedCluster, source: Path, folder: Path) -> None:
        self.cluster, self.away = cluster, folder / "away"
        self.notes: list[str] = []
        self.load = Load(_resolved(source), folder)
        if not self.away.exists():
            source.parent.rename(self.away)
        for path, local in self.load.sources.items():
            self.load.sources[path] = self.away / local.relative_to(source.parent)

    def run(self) -> dict[str, Prepared]:
        it = prepare.Preparation(self.cluster, self.load, self.notes.append, lambda: self.cluster.now_s)
        found = survey(self.cluster, now=lambda: self.cluster.now_s)
        return {each.node: each for each in it.run(found)}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedCluster:
    """Three nodes on which the engine is there; the code is hashed once, which takes a second."""
    code = proof_module.code_sha256()
    for module in (proof_module, being_prepared):
        monkeypatch.setattr(module, "code_sha256", lambda: code)
        monkeypatch.setattr(module, "git_commit", lambda: "c0ffee")
    monkeypatch.setattr(being_prepared, "engine_capabilities", lambda engine, *place: "able")
    return PreparedCluster(tmp_path, monkeypatch, MACHINES)


def test_weights_and_prompts_are_brought_to_each_machine_and_proven(
    cluster: PreparedCluster, source: Path, tmp_path: Path
) -> None:
    bench = Bench(cluster, source, tmp_path)
    done = bench.run()
    assert [each.why_not for each in done.values()] == ["", "", ""]
    files = len(bench.load.sources)
    assert files > 3
    assert done["n1"].did[0].startswith(f"brought {files} files, ")
    kept = cluster.cache("n1") / "brought" / str(source.parent / "model").lstrip("/")
    assert (kept / "config.json").read_bytes() == (bench.away / "model" / "config.json").read_bytes()
    assert not [*cluster.cache("n1").rglob("*.part")]
    assert bench.notes[-1].endswith(": ready")
    sent = len(cluster.pieces)
    (kept / "older.json").write_text("{}")
    assert [each.did for each in bench.run().values()] == [()] * 3, "nothing is done twice"
    assert len(cluster.pieces) == sent
    assert not (kept / "older.json").exists(), "a file that the model no longer has would change its hash"


def test_a_stopped_preparation_goes_on_in_the_middle_of_a_file(
    cluster: PreparedCluster, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "PIECE_BYTES", 40_000)
    cluster.stop_after = 31
    bench = Bench(cluster, source, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert cluster.cancelled
    cluster.stop_after = 1_000_000
    before = cluster.pieces[:]
    assert not any(each.why_not for each in bench.run().values())
    assert any(offset > 0 for _, offset in cluster.pieces[31:34]), "not from the beginning"
    total = sum(-(-max(1, path.stat().st_size) // 40_000) for path in bench.load.sources.values())
    assert len(cluster.pieces) == 3 * total
    assert len(before) == 31


def test_every_obstacle_is_one_sentence_and_the_others_are_prepared(
    cluster: PreparedCluster, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(cluster, source, tmp_path)
    with monkeypatch.context() as full:
        full.setattr(being_prepared.shutil, "disk_usage", lambda path: SimpleNamespace(free=5 << 10))
        done = bench.run()
    assert done["n1"].why_not.endswith(
        f"are to be brought and 5.0 KiB are free in {cluster.cache('n1')}; free space there or point DYNO_CACHE at "
        "another disk"
    )
    cluster.faults["n2", "receive"] = Refused("the disk is full")
    cluster.holders["n3"] = "77"
    done = bench.run()
    assert {each.machine: each.why_not for each in done.values()} == {
        "m1": "",
        "m2": "the disk is full",
        "m3": "it is busy, process 77 measures there; run the same command again once it is free",
    }
    cluster.holders.clear()
    cluster.faults = {("n2", "look"): Lost("KeyError: 'look'")}
    cluster.codes["n3"] = "0" * 64
    done = bench.run()
    assert done["n2"].why_not == (
        "it does not answer what it has (KeyError: 'look'); where it has an older dynamometer, install this one there"
    )
    assert done["n3"].why_not.startswith("it runs dynamometer from the checkout /")
    assert "which stays as it is; bring it to commit " in done["n3"].why_not


def test_a_machine_that_never_answers_holds_up_no_other(cluster: PreparedCluster, source: Path, tmp_path: Path) -> None:
    bench = Bench(cluster, source, tmp_path)
    found = survey(cluster, now=lambda: cluster.now_s)
    cluster.silent.add("n2")
    it = prepare.Preparation(cluster, bench.load, bench.notes.append, lambda: cluster.now_s)
    done = {each.node: each.why_not for each in it.run(found)}
    assert done == {"n1": "", "n2": "no answer to 'look' within 900 s; run the same command again", "n3": ""}
    assert cluster.now_s < 1100
    assert [is_killed for _, is_killed in cluster.cancelled] == [True]
    assert bench.run()["n2"].why_not == "no answer within 120 s"


def test_another_dynamometer_is_replaced_by_this_ones_wheel(
    cluster: PreparedCluster, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(being_prepared, "_why_fixed", lambda: "")
    cluster.codes["n2"] = "0" * 64
    bench = Bench(cluster, source, tmp_path)
    done = bench.run()
    assert not done["n2"].why_not
    assert "it was installed" in done["n2"].did
    ((node, asked),) = cluster.installed
    assert node == "n2"
    kept = cluster.cache("n2") / "brought" / asked.wheel.lstrip("/")
    with zipfile.ZipFile(kept) as wheel:
        assert wheel.read("harness/places/prepare.py") == Path(prepare.__file__).read_bytes()
    needed = being_prepared._requirements(kept)
    assert any(line.startswith("click") for line in needed)
    assert not any(line.startswith("ray") for line in needed)


def test_an_engine_that_is_missing_is_installed_where_it_has_an_environment(
    cluster: PreparedCluster, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = Availability(is_available=False, reason="its package is missing")
    monkeypatch.setattr(being_prepared, "engine_capabilities", lambda engine, *place: why)
    monkeypatch.setattr(being_prepared, "installable", lambda: ("t5",))
    done = Bench(cluster, source, tmp_path).run()
    assert [asked.engine for _, asked in cluster.installed] == ["t5"] * 3
    assert done["n1"].did[1:] == ("it was installed", "without t5: its package is missing")


def test_pieces_are_kept_in_order_and_a_file_only_with_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path))
    file = Stored(sha256=hashlib.sha256(b"abcdef").hexdigest(), size_bytes=6)

    def send(offset: int, content: bytes) -> tuple[bytes, str]:
        piece = Piece(path="/m/w.bin", file=file, offset=offset, content=base64.b64encode(content).decode())
        return receive(json.dumps(to_json(piece)))

    assert send(0, b"abc") == (b"3", "")
    assert send(0, b"abc") == (b"3", ""), "sent twice, kept once"
    assert send(3, b"xyz") == (b"", "/m/w.bin arrived with other content than was sent; run the same command again")
    assert send(0, b"abc") == (b"3", "")
    assert send(3, b"def") == (b"6", "")
    assert brought_path("/m/w.bin").read_bytes() == b"abcdef"
    assert send(3, b"def") == (b"6", ""), "another node of the machine was faster"
    brought_path("/x").touch()
    with_a_file_above = json.dumps(to_json(Piece(path="/x/y", file=file, offset=0, content="")))
    reply, why = receive(with_a_file_above)
    assert (reply, why.split(":")[0]) == (b"", f"cannot write {tmp_path}/brought/x")


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path))
    monkeypatch.setattr(Path, "mkdir", lambda self, **how: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    piece = Piece(path="/m/w.bin", file=Stored(sha256="0", size_bytes=6), offset=0, content="")
    reply, why = receive(json.dumps(to_json(piece)))
    assert (reply, why) == (
        b"",
        f"the disk of {tmp_path} is full; free space there or point DYNO_CACHE at another disk, then run the same "
        "command: it continues from there",
    )


def test_the_wheel_has_a_record_of_every_file_and_what_the_build_installs(tmp_path: Path) -> None:
    first = write_wheel(tmp_path).read_bytes()
    path = write_wheel(tmp_path)
    assert path.read_bytes() == first, "the same files, the same wheel"
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        (record,) = [each for each in names if each.endswith(".dist-info/RECORD")]
        listed = [line.split(",")[0] for line in wheel.read(record).decode().splitlines()]
    assert listed == names
    assert {"engines/t5/kernels/ops/add_shards.h", "engines/environments/vllm.txt", "harness/properties/keys.toml"} <= {
        *names
    }


def test_the_command_states_each_machine_and_fails_where_one_is_not_ready(
    cluster: PreparedCluster, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "open_cluster", lambda address: cluster)
    asked = ["--places", "ray://somewhere:1", "--prepare", str(source)]
    done = CliRunner().invoke(machines.command, asked)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "m1: ready (nothing was missing)"
    cluster.faults["n2", "join"] = Lost("NodeDiedError")
    failed = CliRunner().invoke(machines.command, [*asked, "--json"])
    assert str(failed.exception) == "1 of 3 machines are not ready; the same command continues"
    shown = json.loads(failed.stdout)["prepared"]
    assert [(each["machine"], each["why_not"]) for each in shown] == [("m1", ""), ("m2", "NodeDiedError"), ("m3", "")]
