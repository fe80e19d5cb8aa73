"""DJL's queue and batch rules, in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from engines.api import GenerateParams, QueueOrder
from engines.server.queue import Job, JobQueue, QueueFull, collect_batch
from tests.engines.server.virtual_time import run


def job(number: int) -> Job:
    return Job(job_id=number, text="x", params=GenerateParams(), result=asyncio.get_running_loop().create_future())


def now_ms() -> int:
    return round(asyncio.get_running_loop().time() * 1e3)


def batches_of(
    arrivals_ms: Sequence[int], *, batch_size: int, max_batch_delay_ms: int, service_ms: int = 0
) -> list[tuple[int, list[int]]]:
    """(when it was handed to the worker, job numbers) of each batch that one permanent worker forms."""

    async def main() -> list[tuple[int, list[int]]]:
        queue, seen = JobQueue(1000), []

        async def work() -> None:
            while True:
                batch = await collect_batch(queue, batch_size, max_batch_delay_ms)
                assert batch is not None
                seen.append((now_ms(), [each.job_id for each in batch]))
                await asyncio.sleep(service_ms / 1e3)

        worker = asyncio.create_task(work())
        for number, arrival_ms in enumerate(arrivals_ms):
            await asyncio.sleep((arrival_ms - now_ms()) / 1e3)
            queue.offer([job(number)], are_all_busy=False)
        await asyncio.sleep(10)
        worker.cancel()
        return seen

    return run(main())


def test_batch_size_1_never_waits() -> None:
    assert batches_of([0, 10, 20], batch_size=1, max_batch_delay_ms=100) == [(0, [0]), (10, [1]), (20, [2])]


def test_under_light_load_a_request_waits_the_whole_delay() -> None:
    assert batches_of([0, 500], batch_size=4, max_batch_delay_ms=100) == [(100, [0]), (600, [1])]


def test_the_delay_is_one_budget_for_the_batch_not_one_per_request() -> None:
    assert batches_of([0, 40, 80, 120], batch_size=4, max_batch_delay_ms=100) == [(100, [0, 1, 2]), (220, [3])]


def test_a_full_batch_does_not_wait() -> None:
    assert batches_of([0, 5, 6], batch_size=3, max_batch_delay_ms=100) == [(6, [0, 1, 2])]


def test_what_queued_while_the_worker_was_busy_goes_at_once_up_to_batch_size() -> None:
    batches = batches_of([0, 10, 11, 12, 13, 14], batch_size=4, max_batch_delay_ms=5, service_ms=50)
    assert batches == [(5, [0]), (55, [1, 2, 3, 4]), (110, [5])]


def test_no_delay_takes_only_what_is_there() -> None:
    assert batches_of([0, 1, 2], batch_size=4, max_batch_delay_ms=0, service_ms=10) == [(0, [0]), (10, [1, 2])]


def test_an_idle_temporary_worker_ends() -> None:
    async def main() -> int:
        assert await collect_batch(JobQueue(4), 2, 100, idle_s=60.0) is None
        return now_ms()

    assert run(main()) == 60_000


def test_cancelled_jobs_are_left_out_of_a_batch() -> None:
    async def main() -> list[int]:
        queue = JobQueue(10)
        jobs = [job(number) for number in range(3)]
        collecting = asyncio.create_task(collect_batch(queue, 4, 100))
        await asyncio.sleep(0)
        queue.offer(jobs, are_all_busy=False)
        await asyncio.sleep(0.05)
        queue.discard(jobs[1])
        batch = await collecting
        assert batch is not None
        return [each.job_id for each in batch]

    assert run(main()) == [0, 2]


def test_an_interrupted_collection_returns_its_jobs_in_order() -> None:
    async def main() -> list[int]:
        queue = JobQueue(10)
        queue.offer([job(0), job(1)], are_all_busy=False)
        collecting = asyncio.create_task(collect_batch(queue, 4, 1000))
        await asyncio.sleep(0.5)
        queue.offer([job(2)], are_all_busy=False)
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
        return [each.job_id for each in queue.drain(10)]

    assert run(main()) == [0, 1, 2]


@pytest.mark.parametrize("was_handed_a_job", [True, False])
def test_an_interrupted_taker_loses_nothing(was_handed_a_job: bool) -> None:
    async def main() -> int:
        queue = JobQueue(10)
        taking = asyncio.create_task(queue.take())
        await asyncio.sleep(0.1)
        if was_handed_a_job:
            queue.offer([job(0)], are_all_busy=False)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        if not was_handed_a_job:
            queue.offer([job(0)], are_all_busy=False)
        return len(queue)

    assert run(main()) == 1


@pytest.mark.parametrize(
    ("waiting", "asked", "are_all_busy", "is_refused"),
    [
        (2, 1, False, False),  # one place left, a worker is free
        (2, 1, True, True),  # one place left and every worker busy: DJL refuses
        (1, 1, True, False),
        (3, 1, False, True),
        (1, 2, False, False),
        (1, 2, True, True),
        (2, 2, False, True),
        (0, 4, False, True),
    ],
)
def test_admission_with_three_places(waiting: int, asked: int, are_all_busy: bool, is_refused: bool) -> None:
    async def main() -> int:
        queue = JobQueue(3)
        if waiting:
            queue.offer([job(number) for number in range(waiting)], are_all_busy=False)
        jobs = [job(10 + number) for number in range(asked)]
        if is_refused:
            with pytest.raises(QueueFull, match="job_queue_size=3"):
                queue.offer(jobs, are_all_busy=are_all_busy)
        else:
            queue.offer(jobs, are_all_busy=are_all_busy)
        return len(queue)

    assert run(main()) == waiting + (0 if is_refused else asked)


def test_waiting_workers_are_served_in_the_order_they_came() -> None:
    async def main() -> list[str]:
        queue, order = JobQueue(10), []

        async def take(name: str) -> None:
            await queue.take()
            order.append(name)

        takers = [asyncio.create_task(take(name)) for name in "abc"]
        await asyncio.sleep(0)
        queue.offer([job(0), job(1), job(2)], are_all_busy=False)
        await asyncio.gather(*takers)
        return order

    assert run(main()) == ["a", "b", "c"]


def test_a_suspect_is_a_batch_alone() -> None:
    async def main() -> list[list[int]]:
        queue = JobQueue(10)
        jobs = [job(number) for number in range(5)]
        for suspect in (jobs[1], jobs[2]):
            suspect.is_suspect = True
        queue.offer(jobs, are_all_busy=False)
        return [[each.job_id for each in await collect_batch(queue, 4, 0) or []] for _ in range(4)]

    assert run(main()) == [[0], [1], [2], [3, 4]]


def test_a_suspect_that_comes_while_a_batch_is_collected_waits_for_the_next() -> None:
    async def main() -> list[list[int]]:
        queue = JobQueue(10)
        queue.offer([job(0)], are_all_busy=False)
        collecting = asyncio.create_task(collect_batch(queue, 4, 1000))
        await asyncio.sleep(0.5)
        suspect = job(1)
        suspect.is_suspect = True
        queue.put_back([suspect])
        first = await collecting or []
        return [[each.job_id for each in batch] for batch in (first, await collect_batch(queue, 4, 0) or [])]

    assert run(main()) == [[0], [1]]


def test_a_stream_that_waits_is_answered_when_the_queue_is_failed() -> None:
    async def main() -> tuple[object, BaseException | None]:
        queue, waiting = JobQueue(10), job(0)
        waiting.tokens = asyncio.Queue()
        queue.offer([waiting], are_all_busy=False)
        queue.fail_all(RuntimeError("gone"))
        return await waiting.tokens.get(), waiting.result.exception()

    end, error = run(main())
    assert end is None
    assert str(error) == "gone"


SCHEDULES = {
    each["name"]: each
    for each in json.loads(
        (Path(__file__).parents[1] / "foreign_servers" / "djl" / "recorded" / "schedules.json").read_text(
            encoding="utf-8"
        )
    )
}
"""What a real DJL Serving 0.36.0 did with these arrivals."""
STARTED_S = {"workers grow from 1 to 3": (0.27, 0.42)}
"""When the recorded server's further workers were ready."""


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_heap_serves_as_djl_serving_was_recorded_to(name: str) -> None:
    recorded = SCHEDULES[name]["requests"]
    batches: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for each in recorded:
        if each["status"] == 200:
            batches.setdefault((each["worker"], each["batch"]), []).append((each["position"], each["i"]))
    expected = sorted([i for _, i in sorted(batch)] for batch in batches.values())
    refused = [each["i"] for each in recorded if each["status"] != 200]
    assert run(_served(SCHEDULES[name], "heap")) == (expected, refused)


def test_first_in_first_out_is_another_order() -> None:
    """So that the recordings tell the two apart."""
    served, _ = run(_served(SCHEDULES["arrivals while busy"], "fifo"))
    assert served == [[0], [1, 2, 3, 4], [5, 6]]


async def _served(schedule: Mapping[str, Any], order: QueueOrder) -> tuple[list[list[int]], list[int]]:
    """The batches, each in its order, and what was refused."""
    settings, requests = schedule["properties"], schedule["requests"]
    queue = JobQueue(settings.get("job_queue_size", 1000), order)
    batches: list[list[int]] = []
    refused: list[int] = []
    busy: dict[int, bool] = {}

    async def work(number: int, from_s: float) -> None:
        await asyncio.sleep(from_s)
        while True:
            busy[number] = False
            batch = await collect_batch(queue, settings["batch_size"], settings["max_batch_delay"])
            assert batch is not None
            busy[number] = True
            batches.append([each.job_id for each in batch])
            await asyncio.sleep(max(requests[each.job_id]["seconds"] for each in batch))

    starts = (*[0.0] * settings["minWorkers"], *STARTED_S.get(schedule["name"], ()))
    workers = [asyncio.create_task(work(number, from_s)) for number, from_s in enumerate(starts)]
    await asyncio.sleep(0)
    for request in requests:
        await asyncio.sleep(request["at"] - asyncio.get_running_loop().time())
        try:
            queue.offer([job(request["i"])], are_all_busy=all(busy.values()))
        except QueueFull:
            refused.append(request["i"])
    await asyncio.sleep(10)
    for worker in workers:
        worker.cancel()
    return sorted(batches), refused
