"""Packaging of model.tar.gz for SageMaker: flat, safe, reproducible byte for byte; and reading other people's."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from engines.errors import SpecInvalid
from engines.serving_properties.java_text import PropertiesSyntaxError, parse_properties

PROPERTIES = "serving.properties"
MAX_FILE_BYTES = 64 << 20
"""The code archive holds text; weights go to S3 beside it, uncompressed."""


def pack(files: Mapping[str, bytes]) -> bytes:
    """A gzipped tar of `files` (name -> content): sorted, no folders, no owner, no time. Raises SpecInvalid."""
    check_files(files)
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(files[name])
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(files[name]))
    return gzip.compress(tarred.getvalue(), mtime=0)


def unpack(data: bytes, where: str) -> dict[str, bytes]:
    """The files of a model.tar.gz, one enclosing folder taken off as DJL does. `where` names it in errors.

    Raises SpecInvalid for anything that is not a plain file at the top: paths that leave the folder, links, devices.
    """
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for entry in archive:
                if entry.isdir() and _is_inside(entry.name):
                    continue
                _check_entry(entry, where)
                content = archive.extractfile(entry)
                files[entry.name.removeprefix("./")] = content.read() if content else b""
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SpecInvalid(f"{where}: not a gzipped tar archive: {error}") from None
    tops = {name.partition("/")[0] for name in files}
    if len(tops) == 1 and all("/" in name for name in files):
        files = {name.partition("/")[2]: content for name, content in files.items()}
    check_files(files, where)
    return files


def read_files(source: Path) -> dict[str, bytes]:
    """The files to pack, from a folder (its plain files, without *.json and weights) or from a model.tar.gz.

    Raises SpecInvalid: no such folder, a folder inside it (archives are flat), a link that leaves it.
    """
    if source.is_file():
        return unpack(source.read_bytes(), str(source))
    if not source.is_dir():
        raise SpecInvalid(f"sagemaker: option files={str(source)!r}: no such folder or model.tar.gz")
    folders = sorted(path.name for path in source.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    if folders:
        raise SpecInvalid(
            f"sagemaker: option files={str(source)!r}: the folder {folders[0]!r} in it would not be packed, archives "
            "are flat; put what it holds on S3 and name it in serving.properties (option.model_id), or into an image"
        )
    inside = sorted(path for path in source.iterdir() if path.is_file() and not path.name.endswith(".json"))
    for path in inside:
        if path.is_symlink() and source.resolve() not in path.resolve().parents:
            raise SpecInvalid(f"{path}: a link that leaves the folder; copy the file into it")
    files = {path.name: path.read_bytes() for path in inside if path.stat().st_size <= MAX_FILE_BYTES}
    check_files(files, str(source))
    return files


def properties_of(files: Mapping[str, bytes], where: str = "model.tar.gz") -> dict[str, str]:
    """The keys of the serving.properties among `files`. Raises SpecInvalid: absent, not UTF-8, not properties."""
    if PROPERTIES not in files:
        raise SpecInvalid(f"{where}: no {PROPERTIES} in it; `dyno recommend` writes one")
    try:
        return parse_properties(files[PROPERTIES].decode("utf-8"))
    except UnicodeDecodeError as error:
        byte = files[PROPERTIES][error.start]
        raise SpecInvalid(
            f"{where}: {PROPERTIES}: byte 0x{byte:02x} at offset {error.start} is not UTF-8; save the file as UTF-8, "
            "or write the character as a \\u escape"
        ) from None
    except PropertiesSyntaxError as error:
        raise SpecInvalid(f"{where}: {PROPERTIES}: {error}") from None


def check_files(files: Mapping[str, bytes], where: str = "model.tar.gz") -> None:
    """Raises SpecInvalid unless every name is one plain file name."""
    if not files:
        raise SpecInvalid(f"{where}: holds no files")
    for name in files:
        if "/" in name or "\\" in name or name in ("", ".", "..") or "\0" in name:
            raise SpecInvalid(f"{where}: {name!r} is in a folder; expected files at the top level only")


def _check_entry(entry: tarfile.TarInfo, where: str) -> None:
    if not _is_inside(entry.name):
        raise SpecInvalid(f"{where}: {entry.name!r} would be written outside its folder; refused")
    if not entry.isfile():
        raise SpecInvalid(f"{where}: {entry.name!r} is a link or a device; expected plain files only")
    if entry.size > MAX_FILE_BYTES:
        raise SpecInvalid(
            f"{where}: {entry.name!r} has {entry.size >> 20} MiB; weights go to S3 uncompressed, not into the archive"
        )


def _is_inside(name: str) -> bool:
    return not name.startswith(("/", "\\")) and ".." not in name.replace("\\", "/").split("/") and ":" not in name[:3]
