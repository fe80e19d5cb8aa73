"""What an engine declares as scheduling changes no token; `python -m tests.conformance.numeric_paths` asks more."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.launching import load_engine
from engines.registry import engine_names
from engines.setting import AXES, Setting
from tests.conformance.numeric_paths import bundled_prompts, compared, declared, spec_of

PROMPTS = 24


@pytest.mark.parametrize(("engine", "dtype"), [("fake", "fp32"), ("t5", "fp32"), ("t5", "int8")])
def test_scheduling_changes_no_token(engine: str, dtype: str, model_dir: Path, tmp_path: Path) -> None:
    availability = load_engine(engine).probe()
    if not availability.is_available:
        pytest.skip(f"{engine} cannot run here: {availability.reason}")
    spec = spec_of(engine, dtype, model_dir)
    everything = declared(spec)[-1:]  # in one launch
    assert {"workers", "max_batch_delay_ms"} <= set(everything[0])
    assert [differ for _, differ in compared(spec, everything, bundled_prompts(PROMPTS), tmp_path)] == [0]


def test_the_comparison_sees_another_answer(model_dir: Path, tmp_path: Path) -> None:
    spec = spec_of("fake", "fp32", model_dir)
    found = compared(spec, [{"options.wrong_answers_frac": 0.5}], bundled_prompts(PROMPTS), tmp_path)
    assert 0 < next(found)[1] < PROMPTS


@pytest.mark.parametrize("engine", engine_names())
def test_declarations_name_what_there_is(engine: str) -> None:
    """An axis, or one of the engine's options; and dtypes that it has."""
    loaded = load_engine(engine)
    if not loaded.probe().is_available:
        pytest.skip(f"{engine} cannot run here: {loaded.probe().reason}")
    able = loaded.capabilities()
    known = {axis.name for axis in AXES} | {f"options.{name}" for name in able.options}
    assert set(able.changes_answers) <= known
    assert {dtype for dtypes in able.changes_answers.values() for dtype in dtypes} <= set(able.effective_dtypes)


def test_only_what_schedules_is_so_in_the_table() -> None:
    """Whoever adds an axis decides: nothing said means that it may change answers."""
    scheduling = {axis.name for axis in AXES if axis.is_scheduling}
    assert scheduling == {"workers", "batch_size", "max_batch_delay_ms", "job_queue_size"}
    assert {axis.name for axis in AXES} <= set(Setting().axes())
