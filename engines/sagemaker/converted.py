"""Converted weights for a SageMaker container that runs one of our handlers, with their checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engines.api import EngineSpec
from engines.errors import Unavailable
from engines.foreign_servers.carried_weights import CONVERSIONS
from engines.launching import engine_here

SUMS = "weights.sha256"
"""In the archive, beside model.py: one line per uploaded file, as sha256sum writes and checks them. The handler refuses
weights that are not these (a prefix that somebody wrote over serves something else without a word)."""
SMALL = ("config.json", "generation_config.json", "tokenizer.json")
"""What a handler of ours reads of the model beside its converted weights."""
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """`files`: name below the weights prefix -> file here. `form` distinguishes one conversion of a model from
    another."""

    form: str
    files: Mapping[str, Path]


def wants_converted(files: Mapping[str, bytes]) -> bool:
    """Whether the handler in the archive loads converted weights: those that `dyno recommend` writes check their sums,
    another's model.py gets the weights as they are."""
    return SUMS.encode() in files.get("model.py", b"")


def converted_weights(spec: EngineSpec, hosts: str) -> Converted:
    """The model's small files and what `hosts` makes of its weights, made here at first use: minutes for a large model.

    Raises Unavailable where the engine is not installed here, ModelInvalid.
    """
    if hosts not in CONVERSIONS:
        raise Unavailable(f"sagemaker: {hosts} has no converted form; one of {', '.join(CONVERSIONS)} has")
    available = engine_here(hosts).probe()
    if not available.is_available:
        raise Unavailable(f"sagemaker: the weights must be converted for {hosts} on this machine: {available.reason}")
    found = CONVERSIONS[hosts](spec)
    small = {name: spec.model_dir / name for name in SMALL if (spec.model_dir / name).is_file()}
    large = {f"{found.name}/{path.name}": path for path in sorted(found.made.iterdir()) if path.is_file()}
    return Converted(form=f"{hosts}-{spec.dtype}", files={**small, **large})


def sums(files: Mapping[str, Path]) -> bytes:
    """What SUMS holds for `files`."""
    return "".join(f"{_sha256(path)}  {name}\n" for name, path in sorted(files.items())).encode()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
