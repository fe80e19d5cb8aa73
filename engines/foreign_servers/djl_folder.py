"""The model folder that DJL Serving is started on: serving.properties, model.py, our code and the weights.

The folder needs nothing but DJL Serving's Python and what requirements.txt names: it contains `engines/` with its built
library. The library asks for glibc 2.34 or newer, as Ubuntu 22.04 and later have.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from engines.api import EngineSpec
from engines.errors import SpecInvalid
from engines.serving_properties.java_text import format_properties
from engines.serving_properties.write import container_values

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "t5": ("numpy", "tokenizers"),
    "ctranslate2": ("ctranslate2", "tokenizers"),
    "onnxruntime": ("onnxruntime", "tokenizers", "numpy"),
    "fake": (),
}
"""Backend -> what its requirements.txt names, at the versions that are installed here."""

_MODEL_PY = '"""DJL Serving\'s entry point: our backend, from the engines/ folder beside this file."""\n\n'
_MODEL_PY += "from engines.foreign_servers.djl_handler import handle  # noqa: F401\n"


def write_djl_folder(spec: EngineSpec, backend: str, folder: Path, *, links_weights: bool = False) -> Path:
    """Write the model folder for `backend` configured as `spec` states; returns it.

    Weights are copied, or linked with `links_weights` (only for a server on this machine). Raises SpecInvalid for a
    backend that cannot be carried, OSError.
    """
    if backend not in PACKAGES:
        raise SpecInvalid(f"djl: option backend is {backend!r}, expected one of {', '.join(PACKAGES)}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "serving.properties").write_text(format_properties(_properties(spec, backend)), encoding="ascii")
    (folder / "model.py").write_text(_MODEL_PY, encoding="ascii")
    (folder / "requirements.txt").write_text("".join(f"{_pinned(name)}\n" for name in PACKAGES[backend]))
    here = Path(__file__).parents[1]
    shutil.copytree(
        here,
        folder / "engines",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("__pycache__", "*.md"),
    )
    for file in sorted(path for path in spec.model_dir.iterdir() if path.is_file()):
        target = folder / file.name
        if target.name in ("serving.properties", "model.py", "requirements.txt"):
            continue
        target.unlink(missing_ok=True)
        if links_weights:
            target.symlink_to(file.resolve())
        else:
            shutil.copy2(file, target)
    return folder


def _properties(spec: EngineSpec, backend: str) -> dict[str, str]:
    options = {name: value for name, value in spec.options.items() if name not in ("backend", "image", "command")}
    return container_values(replace(spec, options=options), "model.py", extra={"option.backend": backend})


def _pinned(package: str) -> str:
    try:
        return f"{package}=={metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package
