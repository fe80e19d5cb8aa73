"""The log of a SageMaker endpoint's container, fetched from CloudWatch Logs even after the endpoint is deleted."""

from __future__ import annotations

from pathlib import Path

from engines.errors import EngineError, LaunchFailed, OutOfMemory
from engines.models.download.redaction import redact
from engines.processes.out_of_memory import shows_out_of_memory
from engines.processes.server_process import log_tail
from engines.sagemaker.aws import Aws, NotFound

STREAMS = 8
"""One per instance, and one per container on it; the latest."""
LINES = 1000
"""The last ones of each stream: a start and its traceback, within one answer of at most 1 MB."""


def log_group(endpoint: str) -> str:
    """Where the containers of an endpoint write to."""
    return f"/aws/sagemaker/Endpoints/{endpoint}"


def save_log(aws: Aws, endpoint: str, path: Path) -> str:
    """Write the ends of an endpoint's streams to `path`, each under its name; '' when done, else why it was not."""
    group = log_group(endpoint)
    try:
        found = aws.call(
            "logs",
            "describe_log_streams",
            {"logGroupName": group, "orderBy": "LastEventTime", "descending": True, "limit": STREAMS},
        )
        parts = []
        for stream in sorted(str(row["logStreamName"]) for row in found["logStreams"]):
            asked = {"logGroupName": group, "logStreamName": stream, "limit": LINES, "startFromHead": False}
            events = aws.call("logs", "get_log_events", asked)["events"]
            parts += [f"[{stream}]", *(str(event["message"]).rstrip("\n") for event in events)]
    except (EngineError, NotFound) as error:
        return str(error)
    if not parts:
        return f"log group {group} is empty"
    path.write_text(redact("\n".join(parts)) + "\n", encoding="utf-8")
    return ""


def with_log(error: LaunchFailed, aws: Aws, endpoint: str, path: Path) -> LaunchFailed:
    """`error` with the end of the container's log, now in `path`; OutOfMemory where the log reports it: SageMaker
    itself reports every container that died as a failed health check."""
    if (why := save_log(aws, endpoint, path)) != "":
        return type(error)(f"{error}; its log {log_group(endpoint)} could not be read: {why}")
    tail = log_tail(path)
    kind = OutOfMemory if shows_out_of_memory(tail) else type(error)
    return kind(f"{error}; its log {path} ends:\n{tail}")
