"""The archive in which a trial comes back from the machine that measured it: its record and its files, each hashed.

A tar file: record.json first (the attempt's token, the trial, and path -> SHA-256 of every file), then the files under
their paths in the run folder. Nothing of an archive is written before all of it has been checked.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from harness.records import Trial
from harness.store.codec import DecodeError, from_json, to_json
from harness.store.disk import write_bytes
from harness.store.layout import RunLayout

RECORD = "record.json"
FOLDERS = ("requests", "telemetry", "engine_metrics", "outputs", "logs")
"""Where the files of a trial are in a run folder."""
LIMIT_BYTES = 512 << 20
"""An archive travels in memory, through the engine that placed the trial. 50 MB of Parquet are a million requests."""


class DamagedArchive(ValueError):
    """An archive that is not what its place packed, or not the answer to this attempt; the message explains how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A checked archive: the trial, and the content of its files by their paths in the run folder."""

    trial: Trial
    files: Mapping[str, bytes]

    def write(self, layout: RunLayout) -> None:
        """Put the files in their places, each whole and on the disk. Raises EnvironmentFault."""
        for path, content in self.files.items():
            write_bytes(layout.root / path, content)


def pack(layout: RunLayout, trial: Trial, token: str) -> bytes:
    """The archive of `trial`, whose files alone are in the run folder. Raises DamagedArchive where it is too large."""
    files = {
        path.relative_to(layout.root).as_posix(): path.read_bytes()
        for folder in FOLDERS
        for path in sorted((layout.root / folder).rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
    size = sum(map(len, files.values()))
    if size > LIMIT_BYTES:
        raise DamagedArchive(
            f"the files of {trial.trial_id} are {size >> 20} MiB, expected at most {LIMIT_BYTES >> 20}; ask for fewer "
            "requests"
        )
    hashes = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    record = json.dumps({"token": token, "trial": to_json(trial), "files": hashes}).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, content in {RECORD: record, **files}.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def unpack(archive: bytes, token: str) -> Arrived:
    """What `pack` packed for the attempt of that token. Raises DamagedArchive for anything else: another token, a file
    that is missing, added, changed, or would be written outside a trial's folders."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            members = {member.name: _content(tar, member) for member in tar}
        record = json.loads(members.pop(RECORD))
        found, hashes = record["token"], dict(record["files"])
        trial = from_json(Trial, record["trial"], "trial")
    except (tarfile.TarError, ValueError, KeyError, TypeError, DecodeError) as error:
        raise DamagedArchive(f"not an archive of a trial: {type(error).__name__}: {error}") from error
    if found != token:
        raise DamagedArchive(f"it answers attempt {found!r}, expected {token!r}")
    if set(hashes) != set(members):
        raise DamagedArchive(f"expected the files {sorted(hashes)}, got {sorted(members)}")
    for path, content in members.items():
        if hashlib.sha256(content).hexdigest() != hashes[path]:
            raise DamagedArchive(f"{path}: its SHA-256 is not the one it was packed with")
        parts = PurePosixPath(path).parts
        if parts[0] not in FOLDERS or ".." in parts or len(parts) < 2:
            raise DamagedArchive(f"{path}: expected a file in one of {', '.join(FOLDERS)}")
    return Arrived(trial=trial, files=members)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member) if member.isreg() else None
    if file is None:
        raise DamagedArchive(f"{member.name}: expected a plain file")
    return file.read()
