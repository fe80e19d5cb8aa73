"""The model folder that a trial was measured with, copied whole into a recommendation."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.errors import UsageError
from harness.store.disk import disk_faults


def copy_model_folder(measured: Path, folder: Path) -> None:
    """Copy what is in `measured` into `folder`, linked weights as files.

    Each file and folder appears whole or not at all. Raises UsageError where it is gone or its weights have moved,
    EnvironmentFault when the disk refuses.
    """
    if not (measured / "model.py").is_file():
        raise UsageError(f"{measured}: no model folder there; measure the candidate again, then recommend")
    moved = next((path for path in sorted(measured.rglob("*")) if path.is_symlink() and not path.exists()), None)
    if moved is not None:
        raise UsageError(f"{moved.readlink()}: not there any more, and {moved} is a link to it; measure it again")
    partial = folder / ".model.partial"
    try:
        with disk_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(measured, partial, ignore=shutil.ignore_patterns("__pycache__"))
            for made in sorted(partial.iterdir()):
                place = folder / made.name
                if place.is_dir():
                    shutil.rmtree(place)
                made.replace(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
