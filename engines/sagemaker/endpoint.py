"""The life of one SageMaker endpoint: recorded in a journal, created, waited for, and deleted whatever happens."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from engines.errors import EngineError, LaunchFailed, NotReady, OutOfMemory, SpecInvalid, Unavailable
from engines.models.download.redaction import redact
from engines.processes.out_of_memory import shows_out_of_memory
from engines.processes.waiting import Waiting
from engines.sagemaker.aws import AlreadyThere, Aws, NoCapacity, NotFound
from engines.sagemaker.guardian import MAX_LIFETIME_S, Guarded
from engines.sagemaker.journal import Resource
from engines.sagemaker.package import pack
from engines.sagemaker.plan import EndpointPlan
from engines.sagemaker.weights import put

logger = logging.getLogger("dyno.sagemaker")

MARGIN_S = 60.0
"""Deleting takes time that is paid for too; a budget ends this much earlier (or a tenth of it, if that is less)."""
EXPIRES_AFTER_S = 3600.0
"""The expiry tag is set this long after the guardian's deadline: until then a clean-up elsewhere leaves it alone."""

_CREATED = (
    ("create_model", "model", "ModelName"),
    ("create_endpoint_config", "endpoint-config", "EndpointConfigName"),
    ("create_endpoint", "endpoint", "EndpointName"),
)
_CAPACITY = re.compile(r"InsufficientInstanceCapacity|Unable to provision requested ML compute capacity", re.IGNORECASE)
_MEMORY = re.compile(r"\bOOM", re.IGNORECASE)
"""AWS's own word, beside those of everybody else."""


class LiveEndpoint:
    """An endpoint in service. `spent_usd` counts from its creation, price and number of instances as planned."""

    def __init__(self, plan: EndpointPlan, guarded: Guarded, created: float, ready_s: float) -> None:
        self.plan = plan
        self.name = plan.name
        self.ready_s = ready_s
        self._guarded = guarded
        self._created = created

    def spent_usd(self) -> float | None:
        """USD since its creation; None without a price."""
        if self.plan.usd_per_hour is None:
            return None
        hours = (time.monotonic() - self._created) / 3600.0
        return hours * self.plan.usd_per_hour * self.plan.instance_count

    def ended(self) -> str | None:
        """None while it should be there; else why it was deleted under us."""
        why = self._guarded.journal.expired()
        return f"the endpoint was deleted: {why}" if why else None


@contextmanager
def deployed(aws: Aws, plan: EndpointPlan, files: Mapping[str, bytes]) -> Iterator[LiveEndpoint]:
    """An endpoint in service that serves `files`; on leaving, everything created is deleted (unless plan.is_kept).

    Raises Unavailable (no capacity, quota, credentials), SpecInvalid (refused), LaunchFailed, OutOfMemory, NotReady.
    """
    for attempt in range(plan.patience.capacity_retries + 1):
        try:
            with _once(aws, plan, files) as live:
                yield live
            return
        except NoCapacity as error:
            left = plan.patience.capacity_retries - attempt
            if left == 0:
                raise Unavailable(
                    f"{error}; tried {attempt + 1} times; take another instance type or region, or try later"
                ) from None
            wait_s = plan.patience.capacity_wait_s * 2**attempt
            logger.info("no capacity for %s; again in %.0f s (%d left)", plan.instance.name, wait_s, left)
            aws.sleep(wait_s)


@contextmanager
def _once(aws: Aws, plan: EndpointPlan, files: Mapping[str, bytes]) -> Iterator[LiveEndpoint]:
    guarded = Guarded.begin(plan.name, aws, _lifetime_s(plan))
    begin = time.monotonic()
    is_kept = False
    try:
        _create(aws, plan, files, guarded, expires_s(plan))
        _wait_in_service(aws, plan, guarded, begin)
        yield LiveEndpoint(plan, guarded, begin, time.monotonic() - begin)
        is_kept = plan.is_kept
    finally:
        if is_kept:
            logger.info("kept: endpoint %s still costs money; `dyno deploy sagemaker cleanup --all` ends it", plan.name)
            guarded.keep()
        else:
            guarded.end()


def expires_s(plan: EndpointPlan) -> float:
    """The expiry tag's value for an endpoint that is created now: UTC seconds since 1970."""
    return time.time() + _lifetime_s(plan) + EXPIRES_AFTER_S


def _lifetime_s(plan: EndpointPlan) -> float:
    if plan.lifetime_s is None:
        return MAX_LIFETIME_S
    lifetime_s = plan.lifetime_s - min(MARGIN_S, plan.lifetime_s / 10)
    return min(MAX_LIFETIME_S, lifetime_s)


def _create(aws: Aws, plan: EndpointPlan, files: Mapping[str, bytes], guarded: Guarded, expires_s: float) -> None:
    guarded.journal.will_create(Resource(kind="s3-prefix", name=plan.s3_prefix))
    put(aws, pack(files), plan.code_uri)
    requests = plan.requests(expires_s)
    for operation, kind, name in _CREATED:
        parameters = requests[operation]
        guarded.journal.will_create(Resource(kind=kind, name=parameters[name]))
        logger.info("creating %s %s", kind, parameters[name])
        _create_one(aws, operation, parameters)


def _create_one(aws: Aws, operation: str, parameters: Mapping[str, Any]) -> None:
    try:
        aws.call("sagemaker", operation, parameters)
    except NotFound as error:
        raise SpecInvalid(str(error)) from None
    except AlreadyThere:
        pass  # an attempt that seemed to fail had arrived: names are random, so what exists under ours is ours


def _wait_in_service(aws: Aws, plan: EndpointPlan, guarded: Guarded, begin: float) -> None:
    """Return when InService. Raises NoCapacity, OutOfMemory, LaunchFailed (with AWS's reason), NotReady."""
    reported = ""
    waiting = Waiting(plan.patience.ready_s, begin_s=begin, sleep=aws.sleep)
    while True:
        if (why := guarded.journal.expired()) != "":
            raise NotReady(f"sagemaker: endpoint {plan.name} was deleted before it was in service: {why}")
        try:
            answer = aws.call("sagemaker", "describe_endpoint", {"EndpointName": plan.name})
        except NotFound:
            answer = {"EndpointStatus": "Creating"}  # eventual consistency: not visible yet
        status, waited_s = str(answer["EndpointStatus"]), waiting.waited_s
        if status != reported:
            logger.info("endpoint %s: %s after %.0f s", plan.name, status, waited_s)
            reported = status
        if status == "InService":
            return
        if status == "Failed":
            raise _failure(plan, redact(str(answer.get("FailureReason", "no reason given"))))
        if waiting.is_over:
            raise NotReady(
                f"sagemaker: endpoint {plan.name} is still {status} after {waited_s:.0f} s; raise ready_timeout_s if "
                "it was still loading"
            )
        waiting.pause(plan.patience.poll_s, f"endpoint {plan.name} is {status}")


def _failure(plan: EndpointPlan, reason: str) -> EngineError | NoCapacity:
    failure = f"sagemaker: endpoint {plan.name} on {plan.instance.name} failed: {reason.rstrip('.')}"
    if _CAPACITY.search(reason):
        return NoCapacity(failure)
    if _MEMORY.search(reason) or shows_out_of_memory(reason):
        return OutOfMemory(failure)
    if "health check" in reason.lower():
        advice = f"raise health_check_timeout_s (was {plan.health_check_timeout_s}) if it was still loading"
    elif "download" in reason.lower():
        advice = f"raise data_download_timeout_s (was {plan.download_timeout_s})"
    else:
        advice = "its reason is AWS's own"
    return LaunchFailed(f"{failure}; {advice}")
