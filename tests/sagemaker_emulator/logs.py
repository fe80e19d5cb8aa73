"""CloudWatch Logs' part: what each endpoint's container wrote, kept after its end."""

from __future__ import annotations

import re
import time
from typing import Any

from tests.sagemaker_emulator.container import Container
from tests.sagemaker_emulator.control import Refused

_GROUP = re.compile(r"/aws/sagemaker/Endpoints/(?P<endpoint>[^/]+)")
STREAM = "variant1/i-0123456789abcdef0"


def answer_of(operation: str, request: dict[str, Any], containers: dict[str, Container]) -> dict[str, Any]:
    """The answer to DescribeLogStreams or GetLogEvents; a group exists once its container does. Raises Refused."""
    group = _GROUP.fullmatch(request["logGroupName"])
    if group is None or group["endpoint"] not in containers:
        raise Refused("ResourceNotFoundException", "The specified log group does not exist.")
    lines = [line for line in containers[group["endpoint"]].log().splitlines() if line]
    if operation == "DescribeLogStreams":
        return {"logStreams": [{"logStreamName": STREAM}] if lines else []}
    assert operation == "GetLogEvents", f"{operation} is not emulated"
    if request["logStreamName"] != STREAM:
        raise Refused("ResourceNotFoundException", "The specified log stream does not exist.")
    assert request["startFromHead"] is False, "from the head is not emulated"
    now = int(time.time() * 1000)
    kept = lines[-request["limit"] :]
    return {"events": [{"timestamp": now, "ingestionTime": now, "message": line} for line in kept]}
