"""The proof that two machines would answer the same question: the same code, scenario, weights and prompts, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import engines
import harness
from engines.cache_folder import cache_root
from engines.launching import load_engine
from engines.models.folder import resolve_model
from harness.measure.machine.facts import git_commit
from harness.scenario.resolve import ResolvedScenario, digest_of

FOR_PEOPLE = "commit"
"""The part that only names the code: of a wheel there is no commit, and a commit may have changes."""


def proof(resolved: ResolvedScenario) -> dict[str, str]:
    """Part -> SHA-256 of what a trial of `resolved` would read here; '' where it reads none. Raises EngineError for a
    model that is not here, OSError for another file."""
    parts = {
        FOR_PEOPLE: git_commit(),
        "version": _version(),
        "code": code_sha256(),
        "scenario": digest_of(resolved.scenario),
        "prompts": _sha256(resolved.prompts_path),
        "trace": _sha256(resolved.trace_path),
        "corpus": _sha256(resolved.corpus_path),
        "locustfile": _sha256(resolved.locustfile_path),
    }
    if resolved.scenario.reads_model:
        model = resolved.model
        parts["weights"] = folder_sha256(resolve_model(model.kind, model.value, model.seed, cache_root()))
    if resolved.reference_folder is not None:
        parts["weights of the reference"] = folder_sha256(resolved.reference_folder)
    return parts


def engine_versions(resolved: ResolvedScenario) -> dict[str, str]:
    """'engine package' -> version for every engine of the space that is here."""
    found: dict[str, str] = {}
    for engine in dict.fromkeys(block.engine for block in resolved.scenario.space):
        availability = load_engine(engine).probe()
        found[engine] = "available" if availability.is_available else "missing"
        found |= {f"{engine} with {name}": each for name, each in availability.versions.items()}
    return found


def difference(expected: Mapping[str, str], got: Mapping[str, str]) -> str:
    """'' or the first part by which two proofs differ, as a sentence shows it."""
    names = dict.fromkeys((*expected, *got))
    for name in names:
        one, other = expected.get(name, ""), got.get(name, "")
        if one != other and name != FOR_PEOPLE:
            return f"{name}: expected {one[:12] or 'none'}, got {other[:12] or 'none'}"
    return ""


def code_sha256() -> str:
    """SHA-256 over every source file of the two packages."""
    digest = hashlib.sha256()
    for package in (engines, harness):
        root = Path(package.__file__ or "").parent
        for path in sorted(each for kind in ("*.py", "*.toml") for each in root.rglob(kind)):
            digest.update(f"{package.__name__}/{path.relative_to(root)} {_sha256(path)}\n".encode())
    return digest.hexdigest()


def folder_sha256(folder: Path) -> str:
    """SHA-256 over the whole content of a model's files; some seconds for each 10 GB."""
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.iterdir() if each.is_file()):
        digest.update(f"{path.name} {_sha256(path)}\n".encode())
    return digest.hexdigest()


def _sha256(path: Path | None) -> str:
    if path is None:
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version() -> str:
    try:
        return version("dynamometer")
    except PackageNotFoundError:
        return ""
