"""Fingerprint of the load generator's code: load hosts with a different one are refused as not comparable."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path


@cache
def edition(folder: Path = Path(__file__).parents[1]) -> str:
    """Version of the package and a digest of the load generator's source, such as '0.1.0 (load 4f1c22d0)'."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    try:
        version = metadata.version("dynamometer")
    except metadata.PackageNotFoundError:  # run from a source tree
        version = "source"
    return f"{version} (load {digest.hexdigest()[:8]})"
