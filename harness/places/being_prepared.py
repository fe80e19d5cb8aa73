"""A machine asked what it has for a search, and the installation of what it lacks."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path

import harness
from engines.api import Availability
from engines.cache_folder import cache_root
from engines.environments.install import install as install_environment
from engines.environments.install import installable, is_stale, run_to_end
from engines.environments.locate import AUTO
from engines.errors import EngineError
from engines.models.folder import resolve_model
from harness.errors import EnvironmentFault
from harness.measure.machine.facts import git_commit
from harness.measure.machine.machine_class import this_machine
from harness.places.brought import arrived_bytes, brought_path, drop_others, is_same
from harness.places.machine_lock import machine_lock
from harness.places.proof import code_sha256
from harness.places.requests import FETCHED, Has, Install, Installed, Item, Look
from harness.scenario.resolve import ResolvedScenario
from harness.space.candidates import place_of
from harness.space.capabilities import engine_capabilities


def look(asked: Look) -> Has:
    """What this machine has of what is asked; what was brought earlier and is asked no more in a folder is removed."""
    resolved = asked.question.resolved()
    missing: dict[str, int] = {}
    for item in asked.items:
        place = asked.question.here(item.path)
        if item.is_weights and resolved.model.kind in FETCHED:
            place = _fetched(resolved) or place
        if not _is_there(place, item):
            missing |= _missing(item)
    lacking, fitting = _engines(resolved)
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    return Has(
        code=code_sha256(),
        fixed=_why_fixed(),
        missing=missing,
        free_bytes=shutil.disk_usage(root).free,
        cache=str(root),
        lacking=lacking,
        installable=fitting,
    )


def install(asked: Install, folder: Path, note: Callable[[str], None]) -> Installed:
    """Installs an engine's environment or this dynamometer anew, while nobody measures here. Raises EngineError."""
    with machine_lock(this_machine().machine_id):
        if asked.engine:
            made = install_environment(asked.engine, None, note)
            packages = ", ".join(f"{name} {version}" for name, version in made.packages.items())
            return Installed(what=f"{asked.engine} installed ({packages})")
        return _install_wheel(brought_path(asked.wheel), folder, note)


def _install_wheel(wheel: Path, folder: Path, note: Callable[[str], None]) -> Installed:
    """What it needs first, from this machine's package index where something is missing; then it alone."""
    if why := _why_fixed():
        raise EnvironmentFault(why)
    needs = folder / "requirements.txt"
    needs.write_text("".join(f"{line}\n" for line in _requirements(wheel)), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    log = folder / "pip.log"
    run_to_end([*pip, "-r", str(needs)], log, note)
    run_to_end([*pip, "--no-deps", "--no-index", "--force-reinstall", str(wheel)], log, note)
    return Installed(what=f"{wheel.name} installed")


def _requirements(wheel: Path) -> list[str]:
    """What the wheel needs without extras."""
    with zipfile.ZipFile(wheel) as opened:
        name = next(each for each in opened.namelist() if each.endswith(".dist-info/METADATA"))
        listed = message_from_bytes(opened.read(name)).get_all("Requires-Dist") or []
    return [line for line in listed if "extra ==" not in line]


def _why_fixed() -> str:
    """Why pip cannot replace this dynamometer; '' where it can."""
    root = Path(harness.__file__ or "").resolve().parents[1]
    if root in (Path(sysconfig.get_path("purelib")).resolve(), Path(sysconfig.get_path("platlib")).resolve()):
        return ""
    return f"it runs dynamometer from the checkout {root}, commit {git_commit() or 'unknown'}, which stays as it is"


def _fetched(resolved: ResolvedScenario) -> Path | None:
    """The folder of the model, downloaded now unless it was before; None where that fails."""
    model = resolved.model
    try:
        return resolve_model(model.kind, model.value, model.seed, cache_root())
    except EngineError:
        return None


def _is_there(place: Path, item: Item) -> bool:
    is_folder = "" not in item.files
    if is_folder and not (
        place.is_dir() and {each.name for each in place.iterdir() if each.is_file()} == {*item.files}
    ):
        return False
    return all(is_same(place / name, file) for name, file in item.files.items())


def _missing(item: Item) -> dict[str, int]:
    if "" not in item.files:
        drop_others(item.path, item.files)
    paths = {f"{item.path}/{name}" if name else item.path: file for name, file in item.files.items()}
    return {path: arrived_bytes(path, file) for path, file in paths.items() if not is_same(brought_path(path), file)}


def _engines(resolved: ResolvedScenario) -> tuple[dict[str, str], tuple[str, ...]]:
    """Engine -> why it cannot run here, and which of them have an environment to install."""
    lacking: dict[str, str] = {}
    fitting: list[str] = []
    for block in resolved.scenario.space:
        place = place_of(block, resolved.path.parent)
        found = engine_capabilities(block.engine, *place)
        if not isinstance(found, Availability) and not is_stale(block.engine):
            continue
        lacking[block.engine] = found.reason if isinstance(found, Availability) else "its environment is an older one"
        if block.engine in installable() and place[0] in ("", AUTO):
            fitting.append(block.engine)
    return lacking, tuple(dict.fromkeys(fitting))
