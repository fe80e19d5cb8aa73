"""Every registered engine passes the suite; one that cannot run here is skipped with its own reason."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.api import EngineSpec
from engines.launching import load_engine
from engines.models.kind import SEQ2SEQ
from engines.registry import engine_names
from tests.conformance.engine_suite import PARALLEL, PROMPTS, EngineCase, EngineSuite


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
    if request.param == "djl" and shutil.which("djl-serving") is None:
        pytest.skip(
            "djl-serving is not installed; tests/engines/foreign_servers/test_djl.py plays its recorded conversation"
        )
    spec = EngineSpec(engine=request.param, model_dir=model_dir, batch_size=4, max_batch_delay_ms=50, threads=1)
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
