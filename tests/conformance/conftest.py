"""What the conformance modules share: model, cache, one server per engine, the tokens of the reference."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.api import EngineSpec
from engines.launching import load_engine
from engines.models.cache import build_once
from tests.conformance.engine_suite import PROMPTS, EngineCase, Served, serve

MODEL_DIR = Path(__file__).parents[2] / "scenarios" / "assets" / "flan-t5-bench"
INSTALLED = MODEL_DIR.parents[2] / ".dyno-cache" / "engines"
"""Where `make test` installs the environments of engines that do not share the development one."""


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


@pytest.fixture(scope="module")
def served(case: EngineCase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One fp32 server for all tests of an engine."""
    with serve(case, tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="module")
def reference(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """Hugging Face's greedy tokens of every prompt, asked once in a test run, whichever process needs them first."""

    def ask(folder: Path) -> None:
        spec = EngineSpec(engine="transformers", model_dir=model_dir, threads=1)
        case = EngineCase(engine=load_engine("transformers"), spec=spec, prompts=PROMPTS)
        with serve(case, tmp_path_factory.mktemp("reference")) as served:
            tokens = [served.tokens(prompt, max_new_tokens=24) for prompt in PROMPTS]
        (folder / "tokens.json").write_text(json.dumps(tokens))

    run = tmp_path_factory.getbasetemp()
    run = run.parent if "PYTEST_XDIST_WORKER" in os.environ else run  # each process of xdist has a folder in it
    tokens: list[list[int]] = json.loads((build_once(run / "reference", ask) / "tokens.json").read_text())
    return tokens
