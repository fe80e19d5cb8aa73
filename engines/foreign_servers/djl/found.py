"""The place of a DJL Serving on this machine, and the unpacking of a release archive.

A release is a folder with bin/ and lib/: the archive of https://github.com/deepjavalibrary/djl-serving/releases, which
is also what the Debian package, Homebrew's formula and the docker images hold. No package index has it.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from engines.cache_folder import cache_root
from engines.errors import Unavailable

RELEASED = "djl"
"""The engine whose release archive, which is in no package index, `dyno engine install` unpacks."""
COMMANDS = ("djl-serving", "serving")
HOME_VARIABLE = "DJL_SERVING_HOME"
HOW_TO_GET_IT = (
    "install it (Debian package, Homebrew), or `dyno engine install djl --from ARCHIVE` with a release archive "
    "(github.com/deepjavalibrary/djl-serving/releases), or have docker and name options.image"
)
_JAR = re.compile(r"serving-(\d+\.\d+\.\d+\S*)\.jar")
_MOST_BYTES = 4 << 30
"""A release is 100 MB; more than this is not one, or a bomb."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A DJL Serving: the program that starts it, its version ('' where it is unknown), and who named it."""

    command: Path
    version: str
    by: str

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers."""
        return _order(self.version)


def find_djl(wanted: str = "") -> Found | None:
    """The DJL Serving that `wanted` (a command or a folder) names; '': of DJL_SERVING_HOME, on the path, or installed
    by `dyno engine install djl`, in this order. None where there is none."""
    if wanted:
        return _at(Path(wanted).expanduser(), "options.command") or _on_path(wanted, "options.command")
    home = os.environ.get(HOME_VARIABLE)
    if home:
        return _at(Path(home).expanduser(), HOME_VARIABLE)
    on_path = next((found for name in COMMANDS if (found := _on_path(name, "on the path"))), None)
    return on_path or next((found for home in installed_homes() if (found := _at(home, "installed"))), None)


def why_not_found(wanted: str = "") -> str:
    """Why `find_djl` finds none, and what to do."""
    home = os.environ.get(HOME_VARIABLE)
    if wanted:
        return f"{wanted!r} is no program and no folder of one: {HOW_TO_GET_IT}"
    if home:
        return f"{HOME_VARIABLE} is {home!r}, which holds no bin/djl-serving and no bin/serving: correct or unset it"
    return f"no DJL Serving found: {HOW_TO_GET_IT}"


def installed_homes() -> list[Path]:
    """The folders that `install_djl` made, newest version first."""
    found = cache_root().joinpath("engines").glob("djl-serving-*")
    return sorted((path for path in found if path.is_dir()), key=lambda path: _order(path.name), reverse=True)


def install_djl(source: Path) -> Path:
    """The folder in the cache that a copy of the release in `source` (an archive or a folder) became.

    It appears whole or not at all. Raises Unavailable for anything that is not a release of DJL Serving.
    """
    if not source.exists():
        raise Unavailable(f"--from {source}: nothing there; name a release archive of DJL Serving, or its folder")
    if source.suffix == ".deb":
        raise Unavailable(
            f"--from {source}: a Debian package: install it with `dpkg -i`, and djl-serving is on the path"
        )
    parent = cache_root() / "engines"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".djl-", dir=parent) as partial:
        folder = Path(partial) / "release"
        try:
            _unpack(source, folder)
        except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
            why = str(error).partition("\n")[0].rstrip(": ")
            raise Unavailable(f"--from {source}: cannot be unpacked: {why}; name a .tar, .tar.gz or .zip") from error
        home = next((path for path in (folder, *sorted(folder.iterdir())) if version_of(path)), None)
        if home is None or _program(home) is None:
            raise Unavailable(
                f"--from {source}: not a release of DJL Serving (expected bin/djl-serving or bin/serving, and "
                "lib/serving-<version>.jar in it)"
            )
        for program in (home / "bin").iterdir():
            program.chmod(0o755)
        place = parent / f"djl-serving-{version_of(home)}"
        shutil.rmtree(place, ignore_errors=True)
        home.rename(place)
    return place


def remove_djl() -> tuple[Path, ...]:
    """The installed releases, which were removed."""
    homes = tuple(installed_homes())
    for home in homes:
        shutil.rmtree(home)
    return homes


def version_of(home: Path) -> str:
    """The version of the release in that folder; '' where it is none."""
    names = sorted(path.name for path in home.glob("lib/serving-*.jar"))
    return next((found.group(1) for name in names if (found := _JAR.fullmatch(name))), "")


def _at(path: Path, by: str) -> Found | None:
    program = _program(path) if path.is_dir() else path
    if program is None or not (program.is_file() and os.access(program, os.X_OK)):
        return None
    return Found(command=program.absolute(), version=version_of(program.resolve().parents[1]), by=by)


def _on_path(name: str, by: str) -> Found | None:
    found = shutil.which(name)
    return _at(Path(found), by) if found else None


def _program(home: Path) -> Path | None:
    return next((home / "bin" / name for name in COMMANDS if (home / "bin" / name).is_file()), None)


def _order(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", name))


def _unpack(source: Path, folder: Path) -> None:
    """A copy of `source` in `folder`. Nothing in an archive is written elsewhere, nor linked to what lies elsewhere."""
    if source.is_dir():
        shutil.copytree(source, folder)
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            _check_size(sum(entry.file_size for entry in archive.infolist()))
            for name in archive.namelist():
                if Path(name).is_absolute() or ".." in Path(name).parts:
                    raise ValueError(f"its entry {name!r} lies outside of it")
            archive.extractall(folder)  # noqa: S202 - a zip, its names checked above
    else:
        with tarfile.open(source) as archive:
            _check_size(sum(entry.size for entry in archive))
            archive.extractall(folder, filter="data")


def _check_size(size_bytes: int) -> None:
    if size_bytes > _MOST_BYTES:
        raise ValueError(f"it unpacks to {size_bytes} bytes, expected at most {_MOST_BYTES}")
