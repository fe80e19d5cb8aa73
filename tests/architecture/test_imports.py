"""Importing a file does nothing heavy, and never patches the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.cli.main import VERBS, file_of

pytestmark = pytest.mark.heavy


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


EVERY_ENGINE = (
    "from engines.launching import load_engine; from engines.registry import ENGINES; "
    "engines = [load_engine(name) for name in ENGINES]"
)
HEAVY = {"torch", "transformers", "ctranslate2", "onnxruntime", "locust", "gevent", "pandas", "optuna", "plotly"}


STATEMENTS = (
    "import harness.cli.main",
    "import engines.api, engines.registry, engines.errors",
    EVERY_ENGINE,
    f"{EVERY_ENGINE}; [engine.probe() for engine in engines]",
    "import harness.scenario.load, harness.scenario.resolve",
    "import harness.load.driver",
    *(f"import harness.cli.{file_of(verb)}" for verb in VERBS),  # what `dyno VERB --help` imports
)


def test_a_search_imports_no_server() -> None:
    assert not {"uvicorn", "starlette", "torch", "locust"} & _modules_after(
        "import harness.cli.tune, harness.tune.loop"
    )


def test_importing_pulls_in_nothing_heavy() -> None:
    """All in one process: what is not there after them all, none of them has imported."""
    if HEAVY & _modules_after("; ".join(STATEMENTS)):
        by_statement = {statement: HEAVY & _modules_after(statement) for statement in STATEMENTS}
        assert not {statement: heavy for statement, heavy in by_statement.items() if heavy}
        pytest.fail("only together")
