"""Archives: what a place packed comes out whole, and nothing else is taken."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import EnvironmentFault
from harness.store import archive
from harness.store.archive import DamagedArchive, pack, unpack
from harness.store.layout import RunLayout
from harness.store.writer import RunWriter
from tests.harness.store.trials import a_manifest, a_trial

TRIAL = a_trial(3, trial_id="t0003-x", machine="m1")


def _place(root: Path) -> RunLayout:
    """A place's folder after a trial: also what no archive holds."""
    layout = RunLayout(root)
    files = {
        layout.requests("t0003-x"): b"PAR1",
        layout.telemetry("t0003-x"): b"",
        layout.engine_metrics("t0003-x"): b"PAR1",
        layout.outputs("t0003-x"): '{"id": "ü"}\n'.encode(),
        layout.logs("t0003-x") / "load" / "front.log": b"\xff\x00",
        layout.run_json: b"{}",
        layout.reference_json: b"{}",
    }
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (layout.logs("t0003-x") / "elsewhere").symlink_to("/etc/passwd")
    return layout


def test_a_trial_and_its_files_come_out_as_they_were(tmp_path: Path) -> None:
    packed = pack(_place(tmp_path / "place"), TRIAL, "token")
    arrived = unpack(packed, "token")
    assert arrived.trial == TRIAL
    with RunWriter.create(tmp_path / "results", a_manifest()) as writer:
        arrived.write(writer.layout)
        root = writer.layout.root
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} - {"run.json", ".lock"}
    assert found == {
        "requests/t0003-x.parquet", "telemetry/t0003-x.parquet", "outputs/t0003-x.jsonl", "logs/t0003-x/load/front.log",
        "engine_metrics/t0003-x.parquet",
    }  # fmt: skip
    assert (root / "logs/t0003-x/load/front.log").read_bytes() == b"\xff\x00"


def test_the_answer_to_another_attempt_is_refused(tmp_path: Path) -> None:
    packed = pack(_place(tmp_path), TRIAL, "first attempt")
    with pytest.raises(DamagedArchive, match="answers attempt 'first attempt', expected 'second attempt'"):
        unpack(packed, "second attempt")


def test_every_changed_byte_of_a_file_is_noticed(tmp_path: Path) -> None:
    packed = pack(_place(tmp_path), TRIAL, "token")
    at = packed.index(b"PAR1")
    for offset in range(4):
        damaged = bytearray(packed)
        damaged[at + offset] ^= 1
        with pytest.raises(DamagedArchive, match=r"requests/t0003-x\.parquet: its SHA-256"):
            unpack(bytes(damaged), "token")


@pytest.mark.parametrize("length", [0, 1, 511, 512, 1024, 2000])
def test_a_cut_archive_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(DamagedArchive):
        unpack(pack(_place(tmp_path), TRIAL, "token")[:length], "token")


def _repacked(packed: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        members = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    change(members)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _record(members: dict[str, bytes], **fields: object) -> None:
    members["record.json"] = json.dumps({**json.loads(members["record.json"]), **fields}).encode()


def test_a_file_that_is_missing_or_added_is_refused(tmp_path: Path) -> None:
    packed = pack(_place(tmp_path), TRIAL, "token")
    for change in (
        lambda members: members.pop("outputs/t0003-x.jsonl"),
        lambda members: members.update({"outputs/more.jsonl": b""}),
    ):
        with pytest.raises(DamagedArchive, match="expected the files"):
            unpack(_repacked(packed, change), "token")


@pytest.mark.parametrize("path", ["../run.json", "run.json", "requests", "requests/../../x", "/etc/x", "trials.jsonl"])
def test_a_file_outside_a_trials_folders_is_refused(tmp_path: Path, path: str) -> None:
    def change(members: dict[str, bytes]) -> None:
        for name in [name for name in members if name != "record.json"]:
            del members[name]
        members[path] = b""
        _record(members, files={path: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"})

    with pytest.raises(DamagedArchive, match="expected a file in one of"):
        unpack(_repacked(pack(_place(tmp_path), TRIAL, "token"), change), "token")


@pytest.mark.parametrize("fields", [{"trial": {}}, {"trial": 1}, {"files": 1}, {"files": None}, {"token": None}])
def test_a_record_of_another_form_is_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    packed = pack(_place(tmp_path), TRIAL, "token")
    with pytest.raises(DamagedArchive):
        unpack(_repacked(packed, lambda members: _record(members, **fields)), "token")


def test_an_archive_beyond_the_limit_is_refused_with_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = _place(tmp_path)
    layout.requests("t0003-x").write_bytes(bytes(3 << 20))
    monkeypatch.setattr(archive, "LIMIT_BYTES", 2 << 20)
    with pytest.raises(DamagedArchive, match="3 MiB, expected at most 2"):
        pack(layout, TRIAL, "token")


def test_files_that_cannot_be_written_are_one_sentence(tmp_path: Path) -> None:
    arrived = unpack(pack(_place(tmp_path / "place"), TRIAL, "token"), "token")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "requests").write_text("a file")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        arrived.write(RunLayout(tmp_path / "run"))
