"""Plain Locust, as its users write it: one POST after the other, and nothing else."""

from __future__ import annotations

import os

from locust import FastHttpUser, HttpUser, constant, constant_pacing, task

BODY = {"inputs": "how fast is the client?"}
PACE_S = float(os.environ.get("BENCH_PACE_S", "0"))
WAIT = constant_pacing(PACE_S) if PACE_S else constant(0)


class Fast(FastHttpUser):  # type: ignore[misc]
    wait_time = WAIT

    @task
    def post(self) -> None:
        self.client.post("/invocations", json=BODY)


class Plain(HttpUser):  # type: ignore[misc]
    wait_time = WAIT

    @task
    def post(self) -> None:
        self.client.post("/invocations", json=BODY)
