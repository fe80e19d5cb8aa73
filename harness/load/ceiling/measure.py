"""Measuring the load generator's ceiling: requests per second of one load process against an idle server."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from engines.processes.temp_folders import owned_folder
from harness.errors import EnvironmentFault, MeasurementInvalid
from harness.load.child_process import child_env
from harness.load.driver import LoadResult, drive
from harness.load.plan import LoadPlan
from harness.records import Prompt
from harness.units import NS_PER_S

UNCHECKED_RPS = 500.0
"""Up to this rate one load process is enough on any machine that runs an engine (5,000 and more were measured on a
busy 2-core one); nothing is checked, so that a small trial does not pay for it."""
PROCESS_SHARE = 0.5
"""A load process is asked for at most this share of its ceiling: at half of it, queueing in the client is small."""
BELIEVED_FRAC = 0.8
"""Beyond this share of the ceiling the client's own queue is a visible part of every latency."""
CHECK_S = 1.0
CHECK_USERS = 16


class Ceilings:
    """The ceiling of one process, measured once, when it is first needed."""

    def __init__(self) -> None:
        self._rps: float | None = None

    def rps(self) -> float:
        """Requests per second of one load process. Raises MeasurementInvalid when it could not be measured."""
        if self._rps is None:
            self._rps = measured_rps()
        return self._rps

    def processes_for(self, peak_rps: float, *, is_capped: bool = False, hosts: int = 1) -> int:
        """Load processes that a peak rate needs. Raises EnvironmentFault when this machine's cores are too few for it
        (`is_capped`: as many as there are). Of several load hosts each is taken to be as fast as this one."""
        if peak_rps <= UNCHECKED_RPS:
            return 1
        cores = len(os.sched_getaffinity(0)) * hosts
        needed = math.ceil(peak_rps / (self.rps() * PROCESS_SHARE))
        if peak_rps > self.rps() * BELIEVED_FRAC * cores and not is_capped:
            raise EnvironmentFault(
                f"workload.load asks for {peak_rps:,.0f} requests in its busiest second; one load process reaches "
                f"{self.rps():,.0f} per second on this machine, and it has {cores} cores; lower the rate, or load from "
                "a machine with more cores"
            )
        return max(1, min(needed, cores))

    def why_beyond(self, result: LoadResult) -> str:
        """'' or the sentence that voids a result: it was delivered at a rate too near to the client's own ceiling."""
        window_s = (result.end_ns - result.begin_ns) / NS_PER_S
        if window_s <= 0:
            return ""
        rate_rps = sum(not record.is_warmup for record in result.records) / window_s
        if rate_rps <= UNCHECKED_RPS * result.processes:
            return ""
        ceiling_rps = self.rps() * result.processes
        if rate_rps <= BELIEVED_FRAC * ceiling_rps:
            return ""
        return (
            f"{rate_rps:,.0f} requests/s were sent, and {result.processes} load process(es) reach {ceiling_rps:,.0f} "
            f"on this machine against a server that does nothing (limit {BELIEVED_FRAC:.0%}), so the client was part "
            "of what was measured; set workload.load.processes higher, or load from a larger machine"
        )


def measured_rps() -> float:
    """Requests per second of one load process in a closed loop, measured for a second against a server of ours."""
    with owned_folder("selfcheck") as folder, _server() as port:
        plan = LoadPlan(
            endpoint_url=f"http://127.0.0.1:{port}",
            protocol="djl",
            model_name="model",
            prompts=(Prompt(prompt_id="p", task="t", text="how fast is the client?", reference=None),),
            inputs_per_request=1,
            parameters={},
            users=CHECK_USERS,
            think_time_s=0.0,
            warmup_requests=CHECK_USERS,
            requests=10_000_000,
            max_duration_s=CHECK_S,
            request_timeout_s=10.0,
            stream=False,
            seed=0,
        )
        result = drive(plan, folder, should_stop=lambda: None, on_progress=lambda done: None)
    answered = sum(not record.is_warmup and record.outcome == "ok" for record in result.records)
    if not answered:
        raise MeasurementInvalid("the load generator could not reach its own test server on 127.0.0.1")
    return answered / ((result.end_ns - result.begin_ns) / NS_PER_S)


@contextmanager
def _server() -> Iterator[int]:
    """The port of the server, which ends with the context (or with this process: its stdin closes)."""
    argv = [sys.executable, "-P", "-m", "harness.load.ceiling.null_server"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_env()) as child:
        assert child.stdout is not None
        try:
            line = child.stdout.readline()
            if not line:
                raise MeasurementInvalid("the load generator's own test server did not start")
            yield int(line)
        finally:
            child.kill()
