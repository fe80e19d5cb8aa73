"""Capabilities of each engine on this machine, asked once; a failure becomes "unavailable" with its reason."""

from __future__ import annotations

import os
from functools import cache

from engines.api import Availability, Capabilities
from engines.errors import EngineError
from engines.launching import load_engine


@cache
def engine_capabilities(name: str, python: str = "") -> Capabilities | Availability:
    """Capabilities of an engine that can be launched here (in the environment `python`, if it names one), else the
    Availability that explains why not."""
    try:
        engine = load_engine(name, python or None)
        availability = engine.probe()
        return engine.capabilities() if availability.is_available else availability
    except EngineError as error:
        return Availability(is_available=False, reason=str(error))
    except Exception as error:  # house style 20: one engine probe; a broken install must not end the plan
        return Availability(is_available=False, reason=f"asking it failed: {type(error).__name__}: {error}")


def usable_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0))
