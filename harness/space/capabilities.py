"""Capabilities of each engine on this machine, asked once, and the kind of model that it is asked to serve."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from engines.api import Availability, Capabilities, FolderEngine
from engines.cache_folder import cache_root
from engines.errors import EngineError, ModelInvalid
from engines.launching import engine_here, load_engine
from engines.models.checkpoint.kind import ModelKind, kind_of, model_kind
from engines.models.gguf.as_folder import gguf_folder
from engines.models.random_weights.shapes import SHAPES
from engines.registry import BACKENDS
from harness.scenario.resolve import ResolvedScenario


@cache
def engine_capabilities(name: str, python: str = "", command: str = "", image: str = "") -> Capabilities | Availability:
    """Capabilities of an engine that can be launched here (in the environment `python` or by the `command` or
    `image` that its block names), else the Availability that explains why not."""
    try:
        engine = load_engine(name, python or None, command, image)
        availability = engine.probe()
        return engine.capabilities() if availability.is_available else availability
    except EngineError as error:
        return Availability(is_available=False, reason=str(error))
    except Exception as error:  # house style 20: one engine probe; a broken install must not end the plan
        return Availability(is_available=False, reason=f"asking it failed: {type(error).__name__}: {error}")


def capabilities_for(resolved: ResolvedScenario) -> Callable[..., Capabilities | Availability]:
    """`engine_capabilities`, in which an engine that would refuse the scenario's model is not available, for that
    reason."""
    folder = folder_here(resolved) if resolved.scenario.reads_model else None

    def able(name: str, python: str = "", command: str = "", image: str = "") -> Capabilities | Availability:
        found = engine_capabilities(name, python, command, image)
        if folder is not None and isinstance(found, Capabilities):
            engine = load_engine(name, python or None, command, image)
            try:
                if isinstance(engine, FolderEngine):
                    engine.check_folder(folder)
            except EngineError as error:
                return Availability(is_available=False, reason=str(error), is_of_model=isinstance(error, ModelInvalid))
        return found

    return able


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of an engine's options: `able` holds them, None where nothing is known; `why_unchecked`: why they
    are not those of the server that would run, '' where they are."""

    able: Capabilities | None
    why_unchecked: str = ""


@cache
def known_options(name: str, python: str = "", command: str = "", image: str = "") -> Known:
    """The options of an engine, also where it cannot be launched here; those of one that our server hosts are its
    adapter's, wherever it runs."""
    if name in BACKENDS:
        return _known_here(name)
    found = engine_capabilities(name, python, command, image)
    if isinstance(found, Capabilities):
        where = f"docker image {image}" if image else f"command {command!r}" if command else "the program found here"
        why = f"which version {where} runs is not known" if found.has_open_options else ""
        return Known(able=found, why_unchecked=why)
    try:
        return Known(able=load_engine(name, python or None, command, image).capabilities(), why_unchecked=found.reason)
    except EngineError:
        return Known(able=None, why_unchecked=found.reason)


def _known_here(name: str) -> Known:
    try:
        return Known(able=engine_here(name).capabilities())
    except ImportError:  # it asks its library what that can do
        return Known(able=None, why_unchecked=f"{name} is not installed here")


def model_kind_of(resolved: ResolvedScenario) -> ModelKind | None:
    """The kind of the scenario's model; None where no engine reads it, or before it is downloaded. Raises
    ModelInvalid."""
    model = resolved.model
    if not resolved.scenario.reads_model:
        return None
    if model.kind == "shape":
        shape = SHAPES[model.value]
        kind = kind_of(shape.config(), Path(model.value))
        return replace(kind, has_chat_template=shape.has_chat_template)
    folder = folder_here(resolved)
    return model_kind(folder) if folder is not None else None


def folder_here(resolved: ResolvedScenario) -> Path | None:
    """The model's folder where it needs no download, and for a GGUF file the one that stands for it; else None. Raises
    ModelInvalid."""
    model = resolved.model
    if model.kind == "gguf":
        return gguf_folder(Path(model.value), cache_root())
    return Path(model.value) if model.kind == "path" else None


def usable_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0))
