"""The measured model as a container needs it, put whole beside the written files of a recommendation."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from engines.api import EngineSpec
from engines.cache_folder import cache_root
from engines.errors import EngineError, ModelInvalid
from engines.foreign_servers.carried_weights import CONVERSIONS
from engines.foreign_servers.djl.folder import put_conversion, write_djl_folder
from engines.models.cache import model_digest
from engines.models.checkpoint.weight_files import weight_files
from engines.models.folder import resolve_model
from engines.processes.threads import compute_threads
from engines.registry import traits
from engines.sagemaker.converted import SMALL
from engines.serving_properties.write import MEASURED_WITH
from harness.errors import EnvironmentFault, UsageError
from harness.properties.containers import Container, format_version, glibc_version
from harness.properties.render import Source, is_carried, measured_threads
from harness.store.disk import disk_faults

_OTHER_WEIGHTS = (".safetensors", ".bin", ".h5", ".msgpack", ".pt", ".pth", ".gguf", ".onnx", ".ot")
_GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)")


def put_model(source: Source, target: Container, measured: Path, folder: Path) -> tuple[Path, ...]:
    """Copy into `folder` what `target` needs beside the written files to serve the measured candidate; the paths at the
    top that came. `measured` is the model folder of the trial's own launch, where it wrote one.

    Each of them appears whole or not at all. Nothing comes where the container fetches the model by itself. Raises
    UsageError where the model or its conversion is gone or is another by now, EnvironmentFault when the disk refuses.
    """
    fill = _filling(source, target, measured)
    if fill is None:
        return ()
    partial_folder, is_new = folder / ".model.partial", not folder.exists()
    try:
        with disk_faults(folder):
            shutil.rmtree(partial_folder, ignore_errors=True)
            partial_folder.mkdir(parents=True)
            fill(partial_folder)
            return tuple(_moved(made, folder) for made in sorted(partial_folder.iterdir()))
    except ModelInvalid as error:
        raise UsageError(f"the folder for {target.name} is to hold the measured model, and {error}") from error
    except EngineError as error:
        raise EnvironmentFault(f"the folder for {target.name} is to hold the measured model: {error}") from error
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # not there, or not empty
                folder.rmdir()


def _filling(source: Source, target: Container, measured: Path) -> Callable[[Path], None] | None:
    engine = traits(source.trial.candidate.engine)
    if engine.has_model_folder:
        return partial(_copy_measured, measured)
    if is_carried(source.trial.candidate, is_decoder=source.is_decoder):
        return partial(_copy_with_code, source, target)
    if engine.container_python is not None:
        return partial(_copy_converted, source)
    if source.model.get("kind") in ("hub", "s3"):
        return None
    return lambda folder: _copy(_model_files(_model_dir(source)), folder)


def _copy_measured(measured: Path, folder: Path) -> None:
    """The model folder of a launch, linked weights as files."""
    if not (measured / "model.py").is_file():
        raise UsageError(f"{measured}: no model folder there; measure the candidate again, then recommend")
    moved = next((path for path in sorted(measured.rglob("*")) if path.is_symlink() and not path.exists()), None)
    if moved is not None:
        raise UsageError(f"{moved.readlink()}: not there any more, and {moved} is a link to it; measure it again")
    shutil.copytree(measured, folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


def _copy_with_code(source: Source, target: Container, folder: Path) -> None:
    """Our code, the backend's spec, and the model or what the engine made of it."""
    spec = measured_spec(source, _model_dir(source))
    made = _conversion(source, spec.model_dir) if spec.engine in CONVERSIONS else None
    write_djl_folder(spec, folder, made=made, versions=source.trial.versions)
    for library in folder.glob("engines/**/*.so"):
        found = {(int(major), int(minor)) for major, minor in _GLIBC.findall(library.read_bytes())}
        needed = max(found, default=())
        if needed > glibc_version(target):
            raise UsageError(
                f"{library.name} was built here for glibc {format_version(needed)} and {target.name} has "
                f"{format_version(glibc_version(target))}: build it on an older system, or choose a newer container"
            )


def _copy_converted(source: Source, folder: Path) -> None:
    """The model's small files and the converted weights, for a handler of ours that needs no more."""
    spec = measured_spec(source, _model_dir(source))
    if not (spec.model_dir / "tokenizer.json").is_file():
        raise ModelInvalid(f"{spec.model_dir} has no tokenizer.json, which model.py reads; save its tokenizer as one")
    conversion = CONVERSIONS[spec.engine](spec, _conversion(source, spec.model_dir))
    _copy((path for name in SMALL if (path := spec.model_dir / name).is_file()), folder)
    put_conversion(conversion, folder)


def _conversion(source: Source, model_dir: Path) -> Path:
    """The folder of the converted weights that were measured."""
    made = source.trial.converted_dir
    if not made or not Path(made).is_dir():
        what = f"{made} is not there any more" if made else "the trial does not name its converted weights"
        raise ModelInvalid(f"{what}; measure it again, then recommend")
    if Path(made).parent != model_dir and not Path(made).name.startswith(model_digest(model_dir)):
        raise ModelInvalid(f"{model_dir} is another by now than was converted to {made}; measure it again")
    return Path(made)


def _model_files(model_dir: Path) -> tuple[Path, ...]:
    """The files of a Hugging Face folder: its weights once, and everything that is no weight."""
    plain = (path for path in sorted(model_dir.iterdir()) if path.is_file())
    return (*weight_files(model_dir), *(path for path in plain if path.suffix not in _OTHER_WEIGHTS))


def _model_dir(source: Source) -> Path:
    model = source.model
    kind, value = str(model.get("kind", "")), str(model.get("value", ""))
    return resolve_model(kind, value, int(model.get("seed") or 0), cache_root())


def measured_spec(source: Source, model_dir: Path) -> EngineSpec:
    """The candidate over that model, with the threads that it was measured with."""
    candidate = source.trial.candidate
    spec = EngineSpec(engine=candidate.engine, model_dir=model_dir, **candidate.values())
    return replace(spec, threads=measured_threads(source) or compute_threads(spec))


def variables_beside(source: Source, target: Container) -> dict[str, str]:
    """What a container of DJL's needs in its environment to do what was measured, and no file can hold: the threads of
    a handler that is not ours, and what a launch of DJL Serving sets."""
    engine = traits(source.trial.candidate.engine)
    if target.is_own:
        return {}
    if engine.has_model_folder:
        return dict(MEASURED_WITH)
    threads = measured_threads(source) if engine.container_entry_point else 0
    return {"OMP_NUM_THREADS": str(threads)} if threads else {}


def _copy(files: Iterable[Path], folder: Path) -> None:
    for path in files:
        shutil.copy2(path, folder / path.name)


def _moved(made: Path, folder: Path) -> Path:
    place = folder / made.name
    if place.is_dir():
        shutil.rmtree(place)
    return made.replace(place)
