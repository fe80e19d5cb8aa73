"""Where the runs of c252706 lie, what it printed about them, and how an answer of today is held against that."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

COMMIT = "c25270677a540184f454ffad768313f16e2b60a9"
FOLDER = Path(__file__).parent / "c252706"
LAWS, HALFWAY, BUNDLED = (next((FOLDER / "runs" / name).iterdir()) for name in ("laws", "halfway", "bundled"))
BEFORE, AFTER = sorted((FOLDER / "runs" / "gated").iterdir())
RUNS = {"laws": LAWS, "halfway": HALFWAY, "bundled": BUNDLED, "before": BEFORE, "after": AFTER}
BASELINE = FOLDER / "baseline"

PROSE = {"reason", "headline", "margin", "why", "estimator", "note", "notes", "distrust", "violations", "budget"}
"""Keys whose text may be worded anew; the numbers in it may not change."""
MADE_NOW = {"run_dir", "run", "files", "warnings", "baseline", "candidate"}
"""Keys whose text says where something lies, or what this version of the linter finds."""


def printed(name: str) -> Any:
    """What c252706 printed as JSON."""
    return json.loads((FOLDER / "printed" / name).read_text())


def as_named_now(trial: dict[str, Any]) -> dict[str, Any]:
    """A stored trial (a row of any form that holds one) with the outcome that such a trial has today."""
    is_skipped = trial.get("outcome") == "infeasible" and str(trial.get("reason")).startswith("not launched: ")
    return {**trial, "outcome": "skipped"} if is_skipped else trial


def numbers(text: str) -> list[str]:
    """The numbers in a sentence, identifiers of trials included."""
    return re.findall(r"[tT]\d{4}-[0-9a-f]{10}|\d[\d,]*\.?\d*(?:e-?\d+)?", text)


def assert_still_reported(then: Any, now: Any, where: str = "") -> None:
    """Every key of `then` is in `now` with the same value; there may be new keys. Prose keeps its numbers."""
    key = where.rpartition(".")[2].partition("[")[0]
    if isinstance(then, dict):
        assert isinstance(now, dict), where
        for name, value in as_named_now(then).items():
            assert name in now, f"{where}.{name} is gone"
            if name not in MADE_NOW or not isinstance(value, str | list):
                assert_still_reported(value, now[name], f"{where}.{name}")
    elif isinstance(then, list):
        assert len(then) == len(now), f"{where}: {now}"
        for place, (old, new) in enumerate(zip(then, now, strict=True)):
            assert_still_reported(old, new, f"{where}[{place}]")
    elif isinstance(then, str) and key in PROSE:
        assert numbers(then) == numbers(now), f"{where}: {now!r}"
    elif isinstance(then, float):
        assert now == pytest.approx(then, rel=1e-9), where
    else:
        assert then == now, where
