"""Engines once more, in another way of running that must answer the same: split, offloaded, stateful."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.api import EngineSpec
from engines.launching import load_engine
from tests.conformance.engine_suite import PARALLEL, PROMPTS, EngineCase, EngineSuite

VARIANTS: dict[str, dict[str, Any]] = {
    "deepspeed-tp2": {"tensor_parallel_degree": 2, "options": {"communication": "gloo"}},
    "accelerate-disk": {"options": {"max_cpu_memory_mib": 6}},
    "openvino-stateful": {"options": {"stateful": True}},
}


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest, model_dir: Path) -> EngineCase:
    """One variant, skipped where its engine cannot run."""
    name = request.param.partition("-")[0]
    engine = load_engine(name)
    availability = engine.probe()
    if not availability.is_available:
        pytest.skip(f"{name} cannot run here: {availability.reason}")
    fields = {"batch_size": 4, "max_batch_delay_ms": 50, "threads": 1, **VARIANTS[request.param]}
    spec = EngineSpec(engine=name, model_dir=model_dir, **fields)
    return EngineCase(engine=engine, spec=spec, prompts=PROMPTS, parallel_options=PARALLEL.get(name, {}))


class TestVariants(EngineSuite):
    """The suite, once per variant."""
