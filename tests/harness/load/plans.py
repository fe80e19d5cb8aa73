"""Load plans for tests, and the real load processes run on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.load.driver import LoadResult, drive
from harness.load.plan import LoadPlan
from harness.records import Prompt, RequestRecord

PROMPTS = tuple(Prompt(prompt_id=f"p{n}", task="t", text=f"text {n}", reference=None) for n in range(10))


def plan_of(url: str, **fields: Any) -> LoadPlan:
    """A short closed loop of three users on `url`, changed by `fields`."""
    values: dict[str, Any] = {
        "endpoint_url": url,
        "protocol": "djl",
        "model_name": "m",
        "prompts": PROMPTS,
        "inputs_per_request": 1,
        "parameters": {"max_new_tokens": 4},
        "users": 3,
        "think_time_s": 0.0,
        "warmup_requests": 4,
        "requests": 20,
        "max_duration_s": 30.0,
        "request_timeout_s": 10.0,
        "stream": False,
        "seed": 0,
    }
    return LoadPlan(**{**values, **fields})


def run_load(
    plan: LoadPlan, folder: Path, should_stop: Callable[[], str | None] = lambda: None, **more: Any
) -> LoadResult:
    """The plan, driven to its end."""
    return drive(plan, folder, should_stop=should_stop, on_progress=lambda done: None, **more)


def measured_of(result: LoadResult) -> list[RequestRecord]:
    """The records without warm-up."""
    return [record for record in result.records if not record.is_warmup]
