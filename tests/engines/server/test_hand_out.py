"""How jobs are given to workers with in-flight batching."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from engines.api import EngineSpec
from engines.server.body import parse_body
from engines.server.metrics import ServerMetrics
from engines.server.pool import Worker, WorkerPool
from engines.server.queue import Job
from engines.server.worker_link import WorkerLink
from engines.serving_properties.read import ServerSettings


class Link:
    """What the pool knows of a worker: its jobs, and whether its socket is closed."""

    def __init__(self) -> None:
        self.in_flight: dict[int, Job] = {}
        self.cut = asyncio.Event()

    def admit(self, job: Job) -> None:
        self.in_flight[job.job_id] = job


def pool_of(links: list[Link], limit: int) -> WorkerPool:
    spec = EngineSpec(engine="fake", model_dir=Path("none"), rolling_batch="auto")
    pool = WorkerPool(spec, ServerSettings(max_rolling_batch_size=limit), ServerMetrics())
    pool.status.state = "ready"
    for number, link in enumerate(links):
        worker = Worker(number=number, is_temporary=False, state="ready", link=cast(WorkerLink, link))
        pool.workers.append(worker)
        pool._rolling.append((worker, cast(WorkerLink, link)))
    return pool


def test_each_job_goes_to_the_worker_that_has_fewest_and_waits_where_all_are_full() -> None:
    async def main() -> Any:
        links = [Link(), Link()]
        pool = pool_of(links, limit=2)
        jobs = pool.submit(parse_body(b'{"inputs": ["a", "b", "c", "d", "e"]}'))
        seen = [[job.text for job in link.in_flight.values()] for link in links]
        states = [worker.state for worker in pool.workers]
        del links[1].in_flight[jobs[1].job_id]
        pool._hand_out()
        return seen, states, [job.text for job in links[1].in_flight.values()]

    assert asyncio.run(main()) == ([["a", "c"], ["b", "d"]], ["busy", "busy"], ["d", "e"])


def test_a_worker_whose_socket_is_closed_gets_nothing_and_a_suspect_is_alone() -> None:
    async def main() -> Any:
        links = [Link(), Link()]
        pool = pool_of(links, limit=8)
        links[0].cut.set()
        jobs = pool.submit(parse_body(b'{"inputs": ["a", "b"]}'))
        assert [len(link.in_flight) for link in links] == [0, 2]
        links[1].in_flight.clear()
        for job in jobs:
            job.is_suspect = True
        pool._ask_again(jobs)
        return [[job.text for job in link.in_flight.values()] for link in links], len(pool.queue)

    assert asyncio.run(main()) == ([[], ["a"]], 1)
