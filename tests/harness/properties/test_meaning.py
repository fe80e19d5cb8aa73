"""What the linter states of a clean file: the order of waiting requests, the queue, the delay, deaths."""

from __future__ import annotations

import pytest

from harness.properties.containers import parse_container
from harness.properties.lint.meaning import meanings


def _of(container: str = "0.36.0", **values: str) -> str:
    named = {key.replace("__", "."): value for key, value in values.items()}
    return "\n".join(meanings({"engine": "Python", **named}, parse_container(container)))


@pytest.mark.parametrize(
    ("container", "output"),
    [
        (
            "0.36.0",
            "the newest is served first: where requests wait, P99 is many times P50 (seen on 0.36.0)",
        ),
        (
            "0.35.0",
            "the newest is served first: where requests wait, P99 is many times P50 (read in its source)",
        ),
        ("0.33.0", "first in, first out (read in its source)"),
    ],
)
def test_the_order_follows_the_version(container: str, output: str) -> None:
    assert output in _of(container)


@pytest.mark.parametrize(
    ("values", "output"),
    [
        ({}, "job_queue_size=1000 holds 999 waiting requests"),
        ({"job_queue_size": "20"}, "job_queue_size=20 holds 19 waiting requests while every worker is busy"),
        ({"batch_size": "4"}, "max_batch_delay=100 ms count from when a worker takes the first request"),
        (
            {},
            "retry_threshold=0: a worker's death, a body above 20 MiB or a request longer than option.predict_timeout",
        ),
        ({"option__predict_timeout": "9"}, "option.predict_timeout (9 s) ends the model for good"),
        ({"retry_threshold": "3"}, "the worker is replaced in 60 s, 3 times, and with no other worker"),
        ({"retry_threshold": "3", "minWorkers": "1", "maxWorkers": "2"}, "the worker is replaced in 0.4 s, 3 times"),
        ({"retry_threshold": "x"}, "retry_threshold=0: "),
    ],
)
def test_the_values_of_a_file(values: dict[str, str], output: str) -> None:
    assert output in _of(**values)


def test_what_does_not_hold_is_not_stated() -> None:
    assert "max_batch_delay" not in _of(batch_size="1")
    assert "max_batch_delay" not in _of(batch_size="4", max_batch_delay="0")
    assert "retry_threshold" not in _of(engine="OnnxRuntime")
    assert _of("dynamometer-0.1") == ""
    assert _of("0.34.0").count("seen on 0.36.0, not tried on this version") == 2
