"""Engines that are never launched here: a refusal with a way out, and what they can do where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.adapters.not_launched import NotLaunched
from engines.api import FEATURES, EngineSpec
from engines.errors import Unavailable
from engines.launching import engine_here
from engines.setting import DTYPES

NAMES = ("fastertransformer", "tensorrt_llm", "neuronx")


def engine(name: str) -> NotLaunched:
    found = engine_here(name)
    assert isinstance(found, NotLaunched)
    assert found.name == name
    return found


@pytest.mark.parametrize("name", NAMES)
def test_nothing_launches_it_here_and_the_reason_names_a_way_out(name: str, tmp_path: Path) -> None:
    availability = engine(name).probe()
    assert not availability.is_available
    assert "use " in availability.reason or "serve T5 with" in availability.reason
    with pytest.raises(Unavailable, match=f"{name} cannot run here"):
        engine(name).launch(EngineSpec(engine=name, model_dir=tmp_path), tmp_path, 1.0)
    assert list(engine(name).capabilities().features) == list(FEATURES)


@pytest.mark.parametrize("name", NAMES)
def test_every_dtype_it_lacks_has_a_reason(name: str) -> None:
    able = engine(name).capabilities()
    assert [dtype for dtype in DTYPES if dtype not in able.effective_dtypes and not able.reasons.get(dtype)] == []
    assert able.reasons["int4"] == f"{name} in the containers takes fp32, bf16, fp16"


@pytest.mark.parametrize("name", ["fastertransformer", "tensorrt_llm"])
def test_t5_in_half_floats_is_warned_of(name: str) -> None:
    assert "overflows fp16" in engine(name).capabilities().reasons["fp16"]
