"""Every registered engine passes the suite; one that cannot run here is skipped with its own reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.api import EngineSpec, OptionValue
from engines.registry import engine_names, load_engine
from tests.conformance.engine_suite import EngineCase, EngineSuite, Served, serve

MODEL_DIR = Path(__file__).parents[2] / "scenarios" / "assets" / "flan-t5-bench"
INSTALLED = MODEL_DIR.parents[2] / ".dyno-cache" / "engines"
"""Where `make test` installs the environments of engines that do not share the development one."""
PROMPTS = ("spell: 42", "date: 04/12/1987", "label: the soup was cold.", "spell: 1,306,346")

PARALLEL: dict[str, dict[str, OptionValue]] = {"deepspeed": {"communication": "gloo"}}
"""What another degree needs beside; DeepSpeed's shared-memory operator would be compiled for a minute."""


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted models go to a folder of this test run; installed environments are those of the checkout."""
    given = os.environ.get("DYNO_TEST_CACHE")
    cache = Path(given) if given else tmp_path_factory.mktemp("cache")
    if not (cache / "engines").exists() and INSTALLED.is_dir():
        (cache / "engines").symlink_to(INSTALLED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNO_CACHE", str(cache))
        yield


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundled model, so that nobody changes it while an engine converts it."""
    return Path(shutil.copytree(MODEL_DIR, tmp_path_factory.mktemp("model") / "flan-t5-bench"))


VARIANTS: dict[str, dict[str, Any]] = {
    "deepspeed-tp2": {"tensor_parallel_degree": 2, "options": {"communication": "gloo"}},
    "accelerate-disk": {"options": {"max_cpu_memory_mib": 6}},
    "openvino-stateful": {"options": {"stateful": True}},
}
"""Engines once more, in another way that must answer the same."""


@pytest.fixture(scope="module", params=[*engine_names(), *VARIANTS])
def case(
    request: pytest.FixtureRequest, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineCase]:
    """One engine, skipped where it cannot run."""
    name = request.param.partition("-")[0] if request.param in VARIANTS else request.param
    engine = load_engine(name)
    availability = engine.probe()
    if not availability.is_available:
        pytest.skip(f"{name} cannot run here: {availability.reason}")
    spec = EngineSpec(engine=name, model_dir=model_dir, batch_size=4, max_batch_delay_ms=50, threads=1)
    if name != "attach":
        spec = replace(spec, **VARIANTS.get(request.param, {}))
        yield EngineCase(engine=engine, spec=spec, prompts=PROMPTS, parallel_options=PARALLEL.get(name, {}))
        return
    other = EngineSpec(engine="fake", model_dir=model_dir, batch_size=4, max_batch_delay_ms=50)
    with load_engine("fake").launch(other, tmp_path_factory.mktemp("other"), 120.0) as running:
        attached = EngineSpec(engine="attach", model_dir=model_dir, options={"url": running.endpoint.url})
        yield EngineCase(engine=engine, spec=attached, prompts=PROMPTS)


@pytest.fixture(scope="module")
def served(case: EngineCase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One fp32 server for all tests of an engine."""
    with serve(case, tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="module")
def reference(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """Hugging Face's greedy tokens of every prompt."""
    spec = EngineSpec(engine="transformers", model_dir=model_dir, threads=1)
    case = EngineCase(engine=load_engine("transformers"), spec=spec, prompts=PROMPTS)
    with serve(case, tmp_path_factory.mktemp("reference")) as served:
        return [served.tokens(prompt, max_new_tokens=24) for prompt in PROMPTS]


class TestEngines(EngineSuite):
    """The suite, once per registered engine."""

    def test_fp32_gives_the_tokens_of_the_reference(
        self, case: EngineCase, served: Served, reference: list[list[int]]
    ) -> None:
        if not case.reads_model:
            pytest.skip(f"{case.engine.name} reads no model folder")
        assert [served.tokens(prompt, max_new_tokens=24) for prompt in PROMPTS] == reference
