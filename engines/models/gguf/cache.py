"""The cache of GGUF files written from model folders, one per content and dtype."""

from __future__ import annotations

from pathlib import Path

from engines.environments.packages import package_availability
from engines.errors import Unavailable
from engines.models.cache import build_once, check_unchanged, folder_digest, model_digest
from engines.models.gguf.write import WRITER
from engines.processes.call_in_child import call_in_child

FILE = "model.gguf"


def gguf_model(model_dir: Path, dtype: str, cache: Path, engine: str, python: str | None = None) -> Path:
    """The GGUF file of the folder with `dtype` weights, written once, by `python` where that is not this one. Raises
    ModelInvalid, Unavailable."""
    digest = model_digest(model_dir)
    template = folder_digest(model_dir, names=lambda name: name.endswith(".jinja"))[:4]

    def build(folder: Path) -> None:
        available = package_availability(("gguf",), engine)
        if python is None and not available.is_available:
            raise Unavailable(f"{engine} must write {model_dir} as GGUF first: {available.reason}")
        call_in_child("engines.models.gguf.write", "write_gguf", [str(model_dir), str(folder / FILE), dtype], python)
        check_unchanged(model_dir, digest)

    return build_once(cache / "gguf" / f"{digest}-{template}-{dtype}-v{WRITER}", build) / FILE
