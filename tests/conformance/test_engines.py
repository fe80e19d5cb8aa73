"""Every registered engine passes the suite; one that cannot run here is skipped with its own reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engines.api import EngineSpec
from engines.foreign_servers.djl.found import find_djl
from engines.launching import load_engine
from engines.models.checkpoint.kind import SEQ2SEQ
from engines.registry import engine_names
from tests.conformance.engine_suite import PARALLEL, PROMPTS, EngineCase, EngineSuite

DJL = find_djl()
"""As the user's own cache, path and DJL_SERVING_HOME have it: a fixture gives these tests a cache of their own."""


@pytest.fixture(scope="module", params=engine_names())
def case(
    request: pytest.FixtureRequest, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineCase]:
    """One engine, skipped where it cannot run."""
    engine = load_engine(request.param)
    availability = engine.probe()
    if not availability.is_available:
        pytest.skip(f"{request.param} cannot run here: {availability.reason}")
    kinds = engine.capabilities().model_kinds
    if kinds and SEQ2SEQ not in kinds:
        pytest.skip(f"{request.param} serves {', '.join(kinds)} models only, with tests of its own")
    spec = EngineSpec(engine=request.param, model_dir=model_dir, batch_size=4, max_batch_delay_ms=50, threads=1)
    if request.param == "djl":
        if DJL is None:
            pytest.skip(
                "no DJL Serving found; tests/engines/foreign_servers has a stand-in, and its real Python worker"
            )
        spec = replace(spec, options={"command": str(DJL.command)})
    if request.param == "sagemaker":
        pytest.skip("sagemaker needs endpoints; tests/engines/sagemaker and tests/harness/deploy run it on an emulator")
    if request.param != "attach":
        parallel = PARALLEL.get(request.param, {})
        yield EngineCase(engine=engine, spec=spec, prompts=PROMPTS, parallel_options=parallel)
        return
    other = EngineSpec(engine="fake", model_dir=model_dir, batch_size=4, max_batch_delay_ms=50)
    with load_engine("fake").launch(other, tmp_path_factory.mktemp("other"), 120.0) as running:
        attached = EngineSpec(engine="attach", model_dir=model_dir, options={"url": running.endpoint.url})
        yield EngineCase(engine=engine, spec=attached, prompts=PROMPTS)


class TestEngines(EngineSuite):
    """The suite, once per registered engine."""
