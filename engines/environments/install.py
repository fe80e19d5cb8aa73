"""Installing and removing the Python environment of one engine, from the pinned list <engine>.txt beside this file.

Where the interpreter is the one that runs this, the new environment sees this one's packages behind its own (one line
in a .pth file): torch, some 900 MB, is not installed twice, and pip installs only what is missing or pinned
differently. Another interpreter (`--python`) gets its own copy of everything, and so does a list that stands alone
(package_list.py): it is made from the interpreter behind this environment, which outlives a checkout.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from engines.environments.locate import OLDEST, STAMP, environment_folder
from engines.environments.package_list import PackageList, has_list, package_list
from engines.errors import SpecInvalid, Unavailable
from engines.processes.server_process import Command, ServerProcess
from engines.processes.temp_folders import fresh_path
from engines.registry import engine_names

_ASKED = (
    "import sys, json; from importlib.util import find_spec; "
    "print(json.dumps([sys.version_info[:2], bool(find_spec('venv') and find_spec('ensurepip'))]))"
)
_WHOLE = """
import sys
from importlib.metadata import PackageNotFoundError, distribution
def is_whole(name):
    try:
        return all(file.suffix == ".pyc" or file.locate().exists() for file in distribution(name).files or ())
    except PackageNotFoundError:
        return False
print(*(name for name in sys.argv[1:] if not is_whole(name)), sep=", ")
"""
"""A program that prints the packages of which something is missing."""
_ANSWER_S = 30.0
_POLL_S = 0.2
_SHOWN = ("Collecting ", "Downloading ", "Building wheel", "Installing collected", "Successfully installed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One engine that can have an environment. `state`: installed, stale (made from another list or Python), broken
    (an installation did not finish) or absent."""

    engine: str
    state: str
    folder: Path
    packages: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stamp:
    """What an installation was made from, and what came out."""

    digest: str
    base: str
    packages: dict[str, str]


def installable() -> tuple[str, ...]:
    """Engines with a pinned list."""
    return tuple(name for name in engine_names() if has_list(name))


def environments() -> tuple[Environment, ...]:
    """Every engine that can have an environment, and whether it has."""
    return tuple(_environment(name) for name in installable())


def _environment(engine: str) -> Environment:
    folder = environment_folder(engine)
    stamp = _read_stamp(folder)
    if stamp is None:
        return Environment(engine=engine, state="broken" if folder.exists() else "absent", folder=folder, packages={})
    is_current = stamp.digest == _digest(engine, stamp.base) and Path(stamp.base).exists()
    state = "installed" if is_current else "stale"
    return Environment(engine=engine, state=state, folder=folder, packages=stamp.packages)


def is_stale(engine: str) -> bool:
    """Whether the engine has an installed environment that its package list or its Python has left behind."""
    return engine in installable() and _environment(engine).state == "stale"


def install(engine: str, python: Path | None, progress: Callable[[str], None]) -> Environment:
    """The engine's environment, made from its list unless it is there, whole and current.

    `python` is the interpreter to make it from (default: this one). An interruption leaves nothing that counts as
    installed. Raises SpecInvalid for an engine without a list, Unavailable when it cannot be made.
    """
    listed = _list_of(engine)
    base = checked_base(python or _behind_this()) if python or listed.is_alone else Path(sys.executable).absolute()
    folder = environment_folder(engine)
    with _locked(folder, progress):
        stamp = _read_stamp(folder)
        if stamp is not None and (stamp.base, stamp.digest) == (str(base), _digest(engine, str(base))):
            missing = _not_whole(folder, listed)
            progress(f"{folder} is there and {f'not whole: {missing}' if missing else 'current'}")
            if not missing:
                return _environment(engine)
        if folder.exists():
            progress(f"removing {folder}")
            shutil.rmtree(folder)
        try:
            _make(folder, base, listed, progress)
            packages = _packages(folder, listed)
            made = _Stamp(digest=_digest(engine, str(base)), base=str(base), packages=packages)
            (folder / STAMP).write_text(json.dumps(asdict(made), indent=2), encoding="utf-8")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return _environment(engine)


def remove(engine: str) -> tuple[Path, ...]:
    """The environments of `engine`, or halves of one, that were removed: those of other lists too, where a list is part
    of the name. Raises SpecInvalid."""
    listed = _list_of(engine)
    current = environment_folder(engine)
    others = current.parent.glob(f"{engine}-{'[0-9a-f]' * len(listed.digest)}") if listed.is_alone else ()
    folders = tuple(folder for folder in sorted({current, *others}) if folder.is_dir())
    for folder in folders:
        with _locked(folder, lambda line: None):
            (folder / STAMP).unlink(missing_ok=True)  # first: what is left of an interrupted removal does not count
            shutil.rmtree(folder)
    return folders


def checked_base(python: Path) -> Path:
    """The interpreter that `python` (a venv folder, or an interpreter) names, asked whether it can make an environment.

    Raises Unavailable with one sentence; nothing has been made or removed by then.
    """
    path = python.expanduser().absolute()
    path = path / "bin" / "python" if path.is_dir() else path
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise Unavailable(f"--python {path}: no program there; name an interpreter or a venv folder")
    try:
        done = subprocess.run(
            [str(path), "-I", "-c", _ASKED], capture_output=True, text=True, timeout=_ANSWER_S, check=False
        )
        version, has_venv = json.loads(done.stdout)
    except (OSError, ValueError, TypeError, subprocess.TimeoutExpired):
        raise Unavailable(
            f"--python {path}: it does not answer as a Python 3 does; name an interpreter or a venv folder"
        ) from None
    if tuple(version) < OLDEST:
        raise Unavailable(
            f"--python {path} is Python {version[0]}.{version[1]}; engines need {OLDEST[0]}.{OLDEST[1]} or later"
        )
    if not has_venv:
        raise Unavailable(
            f"--python {path}: its venv or ensurepip module is missing, so it makes no environments; on Debian: "
            f"apt install python{version[0]}.{version[1]}-venv"
        )
    return path


def _behind_this() -> Path:
    """The interpreter that this environment was made from, itself where it is none."""
    found = Path(sys.base_prefix) / "bin" / f"python{sysconfig.get_python_version()}"
    return found if found.exists() else Path(sys.executable).absolute()


def _list_of(engine: str) -> PackageList:
    if engine not in installable():
        raise SpecInvalid(f"{engine!r} has no environment to install; these have: {', '.join(installable())}")
    return package_list(engine)


def _make(folder: Path, base: Path, listed: PackageList, progress: Callable[[str], None]) -> None:
    """A venv with the packages of the list; the log is beside it."""
    is_linked = base == Path(sys.executable).absolute() and not listed.is_alone
    began = time.monotonic()
    progress(f"making {folder} from {base}{f': takes {listed.takes}' if listed.takes else ''}")
    log = folder.parent / f"{folder.name}.log"
    log.unlink(missing_ok=True)
    sees_pip = is_linked and find_spec("pip") is not None  # an environment that uv made has none
    run_to_end([str(base), "-m", "venv", *(["--without-pip"] if sees_pip else []), str(folder)], log, progress)
    python = folder / "bin" / "python"
    if is_linked:
        _link(python)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    pip += ["--no-deps"] if listed.is_alone else []
    plain = [line for line in listed.requirements if line not in listed.hashed]
    for name, lines, options in (("requirements", plain, []), ("hashed", listed.hashed, ["--require-hashes"])):
        if lines:  # apart: one line with a hash makes pip ask for one in every line
            chosen = folder / f"{name}.txt"
            chosen.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            run_to_end([*pip, *options, "-r", str(chosen)], log, progress)
    progress(f"installed in {time.monotonic() - began:.0f} s")


def _link(python: Path) -> None:
    """Let the environment of `python` see the packages of this one, behind its own."""
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    here = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (Path(site) / "zz_linked.pth").write_text("".join(f"{path}\n" for path in here), encoding="utf-8")


def run_to_end(argv: list[str], log: Path, progress: Callable[[str], None]) -> None:
    """Run one command to its end, its telling lines shown as they come; it never outlives this process."""
    shown = 0
    env = {"PYTHONNOUSERSITE": "1", "PYTHONPATH": ""}
    with ServerProcess(Command(argv=argv, log_path=log, env=env, temp_dir=fresh_path("install"))) as process:
        while True:
            code = process.exit_code()
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
            for line in lines[shown:]:
                if line.strip().startswith(_SHOWN):
                    progress(line.strip()[:160])
            shown = len(lines)
            if code is not None:
                break
            time.sleep(_POLL_S)
    if code != 0:
        reasons = [line for line in lines if "ERROR" in line or line.lower().startswith("error")] or lines
        why = " | ".join(reasons[-2:]).strip() or f"status {code}"
        raise Unavailable(f"{' '.join(argv[:4])} ... failed: {why}; the whole log: {log}")


def _packages(folder: Path, listed: PackageList) -> dict[str, str]:
    """Name -> version of every package that the list pins, as the new environment imports them."""
    asked = "import json, sys; from importlib.metadata import version; "
    asked += "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    done = subprocess.run(
        [str(folder / "bin" / "python"), "-c", asked, *sorted(listed.pins)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Unavailable(f"{folder}: not everything was installed: {done.stderr.strip().splitlines()[-1]}")
    packages: dict[str, str] = json.loads(done.stdout)
    return packages


def _not_whole(folder: Path, listed: PackageList) -> str:
    """The listed packages of which files are gone; '' where everything is there."""
    argv = [str(folder / "bin" / "python"), "-c", _WHOLE, *sorted(listed.pins)]
    try:
        printed: str = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "its Python does not run"
    return printed.strip()


def _digest(engine: str, base: str) -> str:
    """Changes with the pins and with what a linked environment sees of this one."""
    listed = package_list(engine)
    if listed.is_alone:
        return listed.digest
    content = json.dumps([listed.pins, base, sysconfig.get_python_version()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _read_stamp(folder: Path) -> _Stamp | None:
    try:
        return _Stamp(**json.loads((folder / STAMP).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def _locked(folder: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """One installation of an engine at a time."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = (folder.parent / f".{folder.name}.lock").open("w")
    except OSError as error:
        raise Unavailable(f"cannot write {folder.parent}: {error.strerror}; point DYNO_CACHE elsewhere") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting: another process installs {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
