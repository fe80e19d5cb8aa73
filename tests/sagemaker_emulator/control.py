"""The control plane: models, endpoint configs, endpoints and their states, with the faults a test asks for."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.sagemaker_emulator.container import Container

ACCOUNT = "123456789012"
CAPACITY = (
    "Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity error. Please retry using a "
    "different ML instance type or after some time."
)
HEALTH = (
    "The primary container for production variant variant1 did not pass the ping health check. Please check CloudWatch "
    "logs for this endpoint."
)
DOWNLOAD = (
    "Failed to download model data for container. The download did not finish within the time limit of the model data "
    "download timeout."
)


class Refused(Exception):
    """An AWS error: its code and message."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass(slots=True)
class Faults:
    """What goes wrong. Counters count down per operation name; everything else holds until changed."""

    throttle: Counter[str] = field(default_factory=Counter)
    server_error: Counter[str] = field(default_factory=Counter)
    lost_answer: Counter[str] = field(default_factory=Counter)
    capacity_failures: int = 0
    quota_types: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    never_ready: bool = False
    download_s: float = 0.0
    creating_s: float = 0.0
    deleting_s: float = 0.0
    runtime_statuses: list[int] = field(default_factory=list)
    break_stream_after: int | None = None
    second_s: float = 1.0
    """How long a second of AWS's timeouts lasts here."""


@dataclass(slots=True)
class Endpoint:
    """One endpoint; `container` once its artefact has been fetched."""

    name: str
    config: dict[str, Any]
    model: dict[str, Any]
    created: float
    status: str = "Creating"
    reason: str = ""
    container: Container | None = None
    deleted_at: float | None = None


Fetch = Callable[[str], bytes | None]
Host = Callable[[bytes, dict[str, Any]], Container]


class ControlPlane:
    """The state of one region. `fetch` reads an S3 object (None when absent); `host` starts a container. `containers`
    keeps the last one of every endpoint that had one, for its log."""

    def __init__(self, region: str, fetch: Fetch, host: Host, faults: Faults) -> None:
        self.region = region
        self.faults = faults
        self.models: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.created: list[tuple[str, str]] = []
        self.containers: dict[str, Container] = {}
        self._fetch = fetch
        self._host = host
        self._lock = threading.RLock()
        self._threads: list[threading.Thread] = []

    def call(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer of one operation. Raises Refused."""
        with self._lock:
            method = getattr(self, f"_{operation}", None)
            if method is None:
                raise Refused("UnknownOperationException", f"{operation} is not emulated", 404)
            answer: dict[str, Any] = method(request)
            return answer

    def stop(self) -> None:
        """End every container."""
        with self._lock:
            for endpoint in self.endpoints.values():
                endpoint.deleted_at = 0.0
        for thread in self._threads:
            thread.join(timeout=30)
        for endpoint in list(self.endpoints.values()):
            if endpoint.container is not None:
                endpoint.container.stop()

    def is_empty(self) -> bool:
        """Nothing exists (an endpoint that is Deleting does)."""
        with self._lock:
            self._settle()
            return not (self.models or self.configs or self.endpoints)

    def _arn(self, kind: str, name: str) -> str:
        return f"arn:aws:sagemaker:{self.region}:{ACCOUNT}:{kind}/{name.lower()}"

    def _keep(self, kind: str, name: str, request: dict[str, Any]) -> str:
        arn = self._arn(kind, name)
        self.tags[arn] = {tag["Key"]: tag["Value"] for tag in request.get("Tags", [])}
        self.created.append((kind, name))
        return arn

    # ---- models

    def _CreateModel(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["ModelName"]
        if name in self.models:
            raise Refused("ValidationException", f'Cannot create already existing model "{self._arn("model", name)}".')
        if "missing" in request["ExecutionRoleArn"]:
            role = request["ExecutionRoleArn"]
            raise Refused(
                "ValidationException",
                f"Could not assume role {role}. Please ensure that the role exists and allows principal "
                "'sagemaker.amazonaws.com' to assume the role.",
            )
        url = request["PrimaryContainer"]["ModelDataUrl"]
        if self._fetch(url) is None:
            raise Refused("ValidationException", f"Could not find model data at {url}.")
        self.models[name] = request
        return {"ModelArn": self._keep("model", name, request)}

    def _DescribeModel(self, request: dict[str, Any]) -> dict[str, Any]:
        model = self._found("model", self.models, request["ModelName"])
        wanted = ("ModelName", "PrimaryContainer", "ExecutionRoleArn")
        return {
            **{key: model[key] for key in wanted},
            "CreationTime": datetime.now(UTC),
            "ModelArn": self._arn("model", request["ModelName"]),
        }

    def _DeleteModel(self, request: dict[str, Any]) -> dict[str, Any]:
        self._found("model", self.models, request["ModelName"])
        del self.models[request["ModelName"]]
        return {}

    def _ListModels(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"Models": [self._row("Model", "model", name) for name in self._named(self.models, request)]}

    # ---- endpoint configs

    def _CreateEndpointConfig(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["EndpointConfigName"]
        if name in self.configs:
            arn = self._arn("endpoint-config", name)
            raise Refused("ValidationException", f'Cannot create already existing endpoint configuration "{arn}".')
        for variant in request["ProductionVariants"]:
            if variant["ModelName"] not in self.models:
                arn = self._arn("model", variant["ModelName"])
                raise Refused("ValidationException", f'Could not find model "{arn}".')
            has_disk = variant["InstanceType"].startswith(("ml.g5", "ml.g6", "ml.p4", "ml.p5"))
            if has_disk and "VolumeSizeInGB" in variant:
                raise Refused("ValidationException", f"VolumeSizeInGB is not supported for {variant['InstanceType']}.")
        self.configs[name] = request
        return {"EndpointConfigArn": self._keep("endpoint-config", name, request)}

    def _DescribeEndpointConfig(self, request: dict[str, Any]) -> dict[str, Any]:
        config = self._found("endpoint configuration", self.configs, request["EndpointConfigName"])
        return {
            "EndpointConfigName": config["EndpointConfigName"],
            "EndpointConfigArn": self._arn("endpoint-config", config["EndpointConfigName"]),
            "ProductionVariants": config["ProductionVariants"],
            "CreationTime": datetime.now(UTC),
        }

    def _DeleteEndpointConfig(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["EndpointConfigName"]
        self._found("endpoint configuration", self.configs, name)
        self._settle()
        if any(each.config["EndpointConfigName"] == name for each in self.endpoints.values()):
            raise Refused("ValidationException", f'Cannot delete endpoint configuration "{name}": it is in use.')
        del self.configs[name]
        return {}

    def _ListEndpointConfigs(self, request: dict[str, Any]) -> dict[str, Any]:
        names = self._named(self.configs, request)
        return {"EndpointConfigs": [self._row("EndpointConfig", "endpoint-config", name) for name in names]}

    # ---- endpoints

    def _CreateEndpoint(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["EndpointName"]
        self._settle()
        if name in self.endpoints:
            raise Refused(
                "ValidationException", f'Cannot create already existing endpoint "{self._arn("endpoint", name)}".'
            )
        config = self._found("endpoint configuration", self.configs, request["EndpointConfigName"])
        variant = config["ProductionVariants"][0]
        if variant["InstanceType"] in self.faults.quota_types:
            raise Refused(
                "ResourceLimitExceeded",
                f"The account-level service limit '{variant['InstanceType']} for endpoint usage' is 0 Instances, with "
                "current utilization of 0 Instances and a request delta of 1 Instances.",
            )
        endpoint = Endpoint(name=name, config=config, model=self.models[variant["ModelName"]], created=time.monotonic())
        self.endpoints[name] = endpoint
        thread = threading.Thread(target=self._bring_up, args=(endpoint, variant), daemon=True)
        self._threads.append(thread)
        thread.start()
        return {"EndpointArn": self._keep("endpoint", name, request)}

    def _DescribeEndpoint(self, request: dict[str, Any]) -> dict[str, Any]:
        self._settle()
        endpoint = self._found("endpoint", self.endpoints, request["EndpointName"])
        answer = {
            "EndpointName": endpoint.name,
            "EndpointArn": self._arn("endpoint", endpoint.name),
            "EndpointConfigName": endpoint.config["EndpointConfigName"],
            "EndpointStatus": endpoint.status,
            "CreationTime": datetime.now(UTC),
            "LastModifiedTime": datetime.now(UTC),
        }
        return {**answer, "FailureReason": endpoint.reason} if endpoint.reason else answer

    def _DeleteEndpoint(self, request: dict[str, Any]) -> dict[str, Any]:
        self._settle()
        endpoint = self._found("endpoint", self.endpoints, request["EndpointName"])
        if endpoint.deleted_at is None:
            endpoint.status = "Deleting"
            endpoint.deleted_at = time.monotonic() + self.faults.deleting_s
        self._settle()
        return {}

    def _ListEndpoints(self, request: dict[str, Any]) -> dict[str, Any]:
        self._settle()
        rows = []
        for name in self._named(self.endpoints, request):
            row = self._row("Endpoint", "endpoint", name)
            row |= {"LastModifiedTime": datetime.now(UTC), "EndpointStatus": self.endpoints[name].status}
            rows.append(row)
        return {"Endpoints": rows}

    def _ListTags(self, request: dict[str, Any]) -> dict[str, Any]:
        tags = self.tags.get(request["ResourceArn"], {})
        return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}

    # ---- helpers

    def _found(self, what: str, table: dict[str, Any], name: str) -> Any:
        if name not in table:
            kind = "endpoint-config" if "configuration" in what else what
            raise Refused("ValidationException", f'Could not find {what} "{self._arn(kind, name)}".')
        return table[name]

    def _named(self, table: dict[str, Any], request: dict[str, Any]) -> list[str]:
        return [name for name in table if request.get("NameContains", "") in name]

    def _row(self, word: str, kind: str, name: str) -> dict[str, Any]:
        return {f"{word}Name": name, f"{word}Arn": self._arn(kind, name), "CreationTime": datetime.now(UTC)}

    def _settle(self) -> None:
        """Endpoints whose deletion is over are gone."""
        for endpoint in list(self.endpoints.values()):
            if endpoint.deleted_at is not None and time.monotonic() >= endpoint.deleted_at:
                del self.endpoints[endpoint.name]
                if endpoint.container is not None:
                    endpoint.container.stop()

    # ---- bringing one up, in a thread of its own

    def _bring_up(self, endpoint: Endpoint, variant: dict[str, Any]) -> None:
        try:
            reason = self._try_up(endpoint, variant)
        except Exception as error:  # what AWS would call an internal error
            reason = f"Internal: {type(error).__name__}: {error}"
        with self._lock:
            if endpoint.status == "Creating":
                endpoint.status = "Failed" if reason else "InService"
                endpoint.reason = reason
            elif endpoint.container is not None:
                endpoint.container.stop()

    def _try_up(self, endpoint: Endpoint, variant: dict[str, Any]) -> str:
        """Why it failed; '' when it is in service or was deleted meanwhile."""
        second_s = self.faults.second_s
        if not self._rest(endpoint, self.faults.creating_s):
            return ""
        with self._lock:
            if self.faults.capacity_failures:
                self.faults.capacity_failures -= 1
                return CAPACITY
        limit_s = variant["ModelDataDownloadTimeoutInSeconds"] * second_s
        if not self._rest(endpoint, min(self.faults.download_s, limit_s)):
            return ""
        archive = self._fetch(endpoint.model["PrimaryContainer"]["ModelDataUrl"])
        if self.faults.download_s > limit_s or archive is None:
            return DOWNLOAD
        endpoint.container = self._host(archive, endpoint.model["PrimaryContainer"])
        self.containers[endpoint.name] = endpoint.container
        deadline = time.monotonic() + variant["ContainerStartupHealthCheckTimeoutInSeconds"] * second_s
        while endpoint.deleted_at is None:
            if not self.faults.never_ready and endpoint.container.is_healthy():
                return ""
            if endpoint.container.has_ended() or (time.monotonic() > deadline and not self.faults.never_ready):
                return HEALTH
            time.sleep(0.02)
        return ""

    def _rest(self, endpoint: Endpoint, duration_s: float) -> bool:
        """Wait, unless it is deleted meanwhile; whether it still exists."""
        end = time.monotonic() + duration_s
        while endpoint.deleted_at is None and time.monotonic() < end:
            with suppress(RuntimeError):
                time.sleep(0.01)
        return endpoint.deleted_at is None
