"""The bundled, trained model on the bundled engine: exact match over every held-out prompt, per dtype."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from engines.models.tokenizer import Tokenizer
from engines.t5 import load

pytestmark = pytest.mark.heavy

ASSETS = Path(__file__).parents[3] / "scenarios" / "assets"
MODEL = ASSETS / "flan-t5-bench"
MAX_DROP = 0.005
"""Half a point: what a quantized dtype may lose of fp32's exact match."""


@cache
def _prompts() -> list[dict[str, str]]:
    return [json.loads(line) for line in (ASSETS / "prompts" / "tasks.jsonl").read_text().splitlines()]


@cache
def _exact_match_frac(dtype: str, exact_head: bool = False) -> float:
    tokenizer = Tokenizer.load(MODEL)
    engine = load(MODEL, dtype=dtype, threads=1, max_slots=16, exact_head=exact_head)
    answers = engine.generate([tokenizer.encode(p["prompt"]) for p in _prompts()], max_new_tokens=96)
    engine.close()
    right = [tokenizer.decode(ids) == p["reference"] for ids, p in zip(answers, _prompts(), strict=True)]
    return sum(right) / len(right)


def test_fp32_answers_at_least_98_percent_of_every_held_out_prompt() -> None:
    assert _exact_match_frac("fp32") >= 0.98


@pytest.mark.parametrize("dtype", ["bf16", "int8", "w8a8", "int4"])
def test_a_quantized_dtype_loses_at_most_half_a_point(dtype: str) -> None:
    assert _exact_match_frac(dtype) >= _exact_match_frac("fp32") - MAX_DROP


def test_the_exact_head_changes_no_answer() -> None:
    assert _exact_match_frac("fp32", exact_head=True) == _exact_match_frac("fp32")
