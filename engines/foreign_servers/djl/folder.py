"""The model folder that DJL Serving is started on: its properties, model.py, backend.json, our code and the weights.

The folder needs nothing but DJL Serving's Python and what requirements.txt names: it contains `engines/` with its built
library. The library asks for glibc 2.34 or newer, as Ubuntu 22.04 and later have. An engine that converts models finds
them converted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from engines.api import EngineSpec
from engines.errors import SpecInvalid
from engines.foreign_servers.carried_weights import CONVERSIONS, Conversion
from engines.models.cache import FORM
from engines.processes.threads import compute_threads
from engines.serving_properties.java_text import format_properties
from engines.serving_properties.write import carried_values

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "t5": ("numpy", "safetensors", "tokenizers"),
    "ctranslate2": ("ctranslate2", "numpy", "tokenizers"),
    "onnxruntime": ("onnxruntime", "numpy", "tokenizers"),
    "openvino": ("numpy", "openvino", "tokenizers"),
    "fake": (),
}
"""Backend -> what its requirements.txt names, at the measured versions, else those that are installed here."""

OWN_OPTIONS = ("backend", "image", "command")
"""Options of engine `djl` itself; the others are its backend's."""

SPEC_FILE = "backend.json"
"""Beside model.py: the whole spec of the backend. The properties that a DJL worker is handed hold every key of the
server too, and each release adds some: none of them can be taken for an option of the backend."""

_MODEL_PY = '"""DJL Serving\'s entry point: our backend, from the engines/ folder beside this file."""\n\n'
_MODEL_PY += "from engines.foreign_servers.djl.handler import handle  # noqa: F401\n"
_NOTE = f"Read by DJL Serving's front end. The backend reads {SPEC_FILE}: change batch_size in both."
_WRITTEN = ("serving.properties", "model.py", "requirements.txt", SPEC_FILE)
_WEIGHTS = (".safetensors", ".bin")


def backend_spec(spec: EngineSpec) -> EngineSpec:
    """The spec of the backend inside an engine `djl` of `spec`, threads and all. Raises SpecInvalid for a backend that
    cannot be carried."""
    backend = str(spec.options.get("backend", "t5"))
    if backend not in PACKAGES:
        raise SpecInvalid(f"djl: option backend is {backend!r}, expected one of {', '.join(PACKAGES)}")
    options = {name: value for name, value in spec.options.items() if name not in OWN_OPTIONS}
    return replace(spec, engine=backend, options=options, threads=compute_threads(spec), python=None)


def write_djl_folder(
    inner: EngineSpec,
    folder: Path,
    *,
    links_weights: bool = False,
    made: Path | None = None,
    versions: Mapping[str, str] | None = None,
) -> Path:
    """Write the model folder for what `backend_spec` gave; returns it.

    Weights are copied, or linked with `links_weights` (only for a server on this machine). `made` is the conversion
    that was measured and `versions` what it was measured with; by default the conversion that is made here now, and the
    packages that are installed. Raises ModelInvalid and Unavailable where nothing can be converted, OSError.
    """
    conversion = CONVERSIONS[inner.engine](inner, made) if inner.engine in CONVERSIONS else None
    folder.mkdir(parents=True, exist_ok=True)
    values = format_properties(carried_values(inner), comment=_NOTE)
    (folder / "serving.properties").write_text(values, encoding="ascii")
    (folder / "model.py").write_text(_MODEL_PY, encoding="ascii")
    (folder / SPEC_FILE).write_text(spec_text(inner), encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements(inner.engine, versions or {}))
    code = Path(__file__).parents[2]
    ignored = shutil.ignore_patterns("__pycache__", "*.md")
    shutil.copytree(code, folder / "engines", dirs_exist_ok=True, ignore=ignored)
    files = {path.name: path for path in sorted(inner.model_dir.iterdir()) if path.is_file()}
    if conversion is not None:
        files = {name: path for name, path in files.items() if not name.endswith(_WEIGHTS)}
        put_conversion(conversion, folder, links=links_weights)
    for name, path in files.items():
        if name not in _WRITTEN:
            _put(path, folder / name, links_weights)
    return folder


def spec_text(inner: EngineSpec) -> str:
    """The text of SPEC_FILE."""
    return json.dumps({**inner.as_message(), "model_dir": ""}, indent=1)


def put_conversion(conversion: Conversion, folder: Path, *, links: bool = False) -> None:
    """Put the converted weights into the model folder, where a handler of ours looks for them. Raises OSError."""
    place = folder / conversion.name
    place.mkdir(exist_ok=True)
    (place / FORM).write_text(f"{conversion.form}\n", encoding="ascii")
    for path in conversion.made.iterdir():
        if path.name != FORM:
            _put(path, place / path.name, links)


def requirements(backend: str, versions: Mapping[str, str]) -> str:
    """The text of requirements.txt, pinned to `versions`, else to what is installed here."""
    return "".join(f"{_pinned(name, versions)}\n" for name in PACKAGES[backend])


def _put(file: Path, target: Path, links: bool) -> None:
    target.unlink(missing_ok=True)
    if links:
        target.symlink_to(file.resolve())
    else:
        shutil.copy2(file, target)


def _pinned(package: str, versions: Mapping[str, str]) -> str:
    try:
        return f"{package}=={versions.get(package) or metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package
