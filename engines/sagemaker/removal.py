"""Removal of the AWS resources that a journal or a tag names, in the order that AWS allows."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from engines.errors import EngineError, Unavailable
from engines.models.download.redaction import redact
from engines.sagemaker.aws import AccessDenied, Aws, NotFound
from engines.sagemaker.journal import EXPIRES_TAG, KINDS, NAME_PREFIX, TAG, Journal, Resource, journals

logger = logging.getLogger("dyno.sagemaker")

GONE_TIMEOUT_S = 900.0
GONE_POLL_S = 2.0

_DELETE = {
    "endpoint": ("delete_endpoint", "EndpointName"),
    "endpoint-config": ("delete_endpoint_config", "EndpointConfigName"),
    "model": ("delete_model", "ModelName"),
}


def remove(aws: Aws, journal: Journal) -> tuple[Resource, ...]:
    """Delete everything the journal still names; returns what was deleted. A resource that was never made is fine.

    Every resource is tried even when another fails; then raises Unavailable, and the journal keeps what is left.
    """
    gone, failed = [], []
    for resource in journal.remaining():
        try:
            delete(aws, resource)
        except EngineError as error:
            failed.append(f"{resource.kind} {resource.name}: {error}")
            continue
        journal.deleted(resource)
        gone.append(resource)
    journal.close()
    if failed:
        raise Unavailable(
            f"sagemaker: could not delete {'; '.join(failed)}; `dyno deploy sagemaker cleanup` tries again"
        )
    return tuple(gone)


def delete(aws: Aws, resource: Resource) -> None:
    """Delete one resource and, for an endpoint, wait until it is gone: a config in use must not be deleted."""
    logger.info("deleting %s %s", resource.kind, resource.name)
    if resource.kind == "s3-prefix":
        delete_prefix(aws, resource.name)
        return
    operation, name = _DELETE[resource.kind]
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while True:
        try:
            aws.call("sagemaker", operation, {name: resource.name})
            break
        except NotFound:
            break
        except EngineError as error:
            # An endpoint that is still Creating may refuse deletion for a while.
            left_s = deadline - time.monotonic()
            if resource.kind != "endpoint" or left_s < 0:
                raise
            if isinstance(error, Unavailable):
                logger.info(
                    "%s; it still costs money: trying for %.0f more minutes. If this process is killed its guardian "
                    "continues, and `dyno deploy sagemaker cleanup` finds what is left", error, left_s / 60,
                )  # fmt: skip
            aws.sleep(GONE_POLL_S)
    if resource.kind == "endpoint":
        _wait_gone(aws, resource.name, deadline)


def _wait_gone(aws: Aws, name: str, deadline: float) -> None:
    while True:
        try:
            aws.call("sagemaker", "describe_endpoint", {"EndpointName": name})
        except NotFound:
            return
        if time.monotonic() > deadline:
            raise Unavailable(f"sagemaker: endpoint {name} is still there after {GONE_TIMEOUT_S:g} s of deleting")
        aws.sleep(GONE_POLL_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something of ours that exists. `why` states how it was found; `is_in_use` when its launch may still be
    running."""

    resource: Resource
    launch: str
    why: str
    is_in_use: bool


def leftovers(aws: Aws, now_s: float) -> tuple[Leftover, ...]:
    """What exists in the region with our tag, and what this machine's journals name: endpoints first."""
    found: dict[Resource, Leftover] = {}
    for journal in journals():
        if journal.region != aws.region:
            continue
        for resource in journal.remaining():
            why, is_in_use = _state(journal)
            found[resource] = Leftover(resource=resource, launch=journal.path.stem, why=why, is_in_use=is_in_use)
    for resource, tags in _tagged(aws):
        if resource not in found:
            expires = float(tags.get(EXPIRES_TAG, "0"))
            why = "its tag is past its date" if expires <= now_s else "tagged, launched elsewhere, not expired"
            found[resource] = Leftover(resource=resource, launch=tags[TAG], why=why, is_in_use=expires > now_s)
    return tuple(sorted(found.values(), key=lambda each: (KINDS.index(each.resource.kind), each.resource.name)))


def _state(journal: Journal) -> tuple[str, bool]:
    """The state of everything that a journal of this machine names, and whether that may be in use."""
    if journal.is_owned():
        return "its journal is here, its process runs (or cannot be seen from here)", True
    if journal.is_kept():
        return "its journal is here, it was kept on purpose", True
    return "its journal is here, its process has ended", False


def remove_leftovers(aws: Aws, chosen: Iterable[Leftover]) -> list[str]:
    """Delete these; one sentence for each that could not be."""
    failed = []
    gone: list[Resource] = []
    for leftover in chosen:
        try:
            delete(aws, leftover.resource)
            gone.append(leftover.resource)
        except EngineError as error:
            failed.append(f"{leftover.resource.kind} {leftover.resource.name}: {error}")
    for journal in journals():
        for resource in set(journal.remaining()) & set(gone):
            journal.deleted(resource)
        if journal.is_kept() or not journal.is_owned():  # a launch that runs may yet name more
            journal.close()
            if not journal.path.exists():
                journal.path.with_suffix(".log").unlink(missing_ok=True)
    return failed


def _tagged(aws: Aws) -> Iterable[tuple[Resource, dict[str, str]]]:
    for kind, operation, listing, word in (
        ("endpoint", "list_endpoints", "Endpoints", "Endpoint"),
        ("endpoint-config", "list_endpoint_configs", "EndpointConfigs", "EndpointConfig"),
        ("model", "list_models", "Models", "Model"),
    ):
        token: dict[str, str] = {}
        while True:
            page = aws.call("sagemaker", operation, {"NameContains": NAME_PREFIX, **token})
            for row in page[listing]:
                tags = _tags(aws, row[f"{word}Arn"])
                if TAG in tags:
                    yield Resource(kind=kind, name=row[f"{word}Name"]), tags
            if not page.get("NextToken"):
                break
            token = {"NextToken": page["NextToken"]}


def _tags(aws: Aws, arn: str) -> dict[str, str]:
    try:
        answer = aws.call("sagemaker", "list_tags", {"ResourceArn": arn})
    except NotFound:
        return {}
    return {tag["Key"]: tag["Value"] for tag in answer["Tags"]}


def delete_prefix(aws: Aws, uri: str) -> None:
    """Remove every object under s3://bucket/prefix/, and the parts of uploads that were cut short (they are stored and
    billed, and no list of objects shows them); nothing there is fine."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not prefix.strip("/"):
        raise AssertionError(f"refusing to empty a whole bucket: {uri}")
    while True:
        try:
            found = aws.call("s3", "list_objects_v2", {"Bucket": bucket, "Prefix": prefix}).get("Contents", [])
        except NotFound:
            return
        if not found:
            break
        keys = [{"Key": item["Key"]} for item in found]
        answer = aws.call("s3", "delete_objects", {"Bucket": bucket, "Delete": {"Objects": keys, "Quiet": True}})
        if refused := answer.get("Errors", []):  # a 200 all the same: without this the loop would never end
            why = f"{refused[0].get('Code', '')}: {refused[0].get('Message', '')}"
            raise Unavailable(
                f"sagemaker: {len(refused)} of {len(keys)} objects under {uri} cannot be deleted ({redact(why)}); the "
                "credentials need s3:DeleteObject there"
            )
    _abort_uploads(aws, bucket, prefix)


def _abort_uploads(aws: Aws, bucket: str, prefix: str) -> None:
    try:
        open_ = aws.call("s3", "list_multipart_uploads", {"Bucket": bucket, "Prefix": prefix}).get("Uploads", [])
    except NotFound:
        return
    except AccessDenied as error:
        logger.warning("%s; parts of uploads that were cut short may be left under s3://%s/%s", error, bucket, prefix)
        return
    for each in open_:
        with suppress(NotFound):
            named = {"Bucket": bucket, "Key": each["Key"], "UploadId": each["UploadId"]}
            aws.call("s3", "abort_multipart_upload", named)
