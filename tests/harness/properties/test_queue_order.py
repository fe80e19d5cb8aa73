"""The order in which containers take waiting requests, and what a written file says about it."""

from __future__ import annotations

import pytest

from harness.properties.containers import parse_container
from harness.properties.queue_order import order_notes, queue_order
from harness.properties.render import PROPERTIES, Source, render
from tests.harness.choose.runs import candidate, run_of, trial


@pytest.mark.parametrize(
    ("container", "order"),
    [("0.33.0", "djl-fifo"), ("0.27.0-deepspeed", "djl-fifo"), ("0.34.0", "heap"), ("0.36.0-lmi20", "heap"),
     ("0.38.0", "heap"), ("dynamometer-0.1", "fifo")],
)  # fmt: skip
def test_the_heap_begins_with_0_34(container: str, order: str) -> None:
    assert queue_order(parse_container(container)) == order


@pytest.mark.parametrize(
    ("measured", "container", "expected"),
    [
        ("heap", "0.36.0-lmi20", "the newest waiting request first (seen on 0.36.0), and so it was measured."),
        ("fifo", "0.36.0-lmi20", "a P50 lower and a P99 many times higher than measured: neither is promised"),
        ("", "0.36.0-lmi20", "the order it was measured by is not known"),
        ("fifo", "0.29.0", "first in, first out (read in its source), and so it was measured."),
        ("djl-fifo", "0.29.0", "first in, first out (read in its source), and so it was measured."),
        ("djl-fifo", "0.36.0-lmi20", "it was measured with first in, first out."),
        ("djl-fifo", "dynamometer-0.1", ""),
        ("heap", "0.29.0", "a P50 higher and a P99 far lower than measured: neither is promised"),
        ("heap", "dynamometer-0.1", "measure it here before relying on a latency"),
        ("fifo", "dynamometer-0.1", ""),
    ],
)
def test_no_latency_is_promised_that_was_measured_under_another_order(
    measured: str, container: str, expected: str
) -> None:
    notes = " ".join(order_notes(measured, parse_container(container)))
    assert expected in notes
    assert bool(notes) == bool(expected)
    made = trial(1, candidate("transformers"), (20.0, 19.0, 21.0), queue_order=measured)
    text = render(Source(run_name="r", manifest=run_of().manifest, trial=made), container)[PROPERTIES]
    assert expected in " ".join(line.removeprefix("# ") for line in text.splitlines())


@pytest.mark.parametrize(
    ("measured", "container", "expected"),
    [
        ("fifo", "0.29.0", "a list of inputs as one job; it was measured with a job for each input."),
        ("djl-fifo", "0.29.0", "first in, first out (read in its source), and so it was measured."),
        ("djl-fifo", "dynamometer-0.1", "as DJL Serving takes them, a list of inputs as one job: measure it here"),
    ],
)
@pytest.mark.parametrize("workload", [{"inputs_per_request": 4}, {"locustfile": "users.py"}])
def test_a_latency_of_lists_is_promised_only_where_they_were_counted_alike(
    workload: dict[str, object], measured: str, container: str, expected: str
) -> None:
    made = trial(1, candidate("transformers"), (20.0, 19.0, 21.0), queue_order=measured)
    source = Source(run_name="r", manifest=run_of(workload=workload).manifest, trial=made)
    text = " ".join(line.removeprefix("# ") for line in render(source, container)[PROPERTIES].splitlines())
    assert expected in text
    assert ("no latency is promised" in text) is (measured == "fifo")


def test_a_file_for_djl_serving_explains_what_a_dead_worker_does_there() -> None:
    made = trial(1, candidate("transformers"), (20.0, 19.0, 21.0))
    text = render(Source(run_name="r", manifest=run_of().manifest, trial=made), "0.36.0-lmi20")[PROPERTIES]
    assert "retry_threshold=3 and maxWorkers one above" in text
