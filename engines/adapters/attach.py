"""Adapter for an endpoint that already runs (engine `attach`): measured as found, never started or stopped."""

from __future__ import annotations

import itertools
import os
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.adapters.api_key import authorization
from engines.api import Availability, Capabilities, Endpoint, EngineFacts, EngineSpec
from engines.errors import EngineError, LaunchFailed, NotReady, SpecInvalid
from engines.processes.server_process import http_status
from engines.spec_check import check_spec, choice

OPTIONS = {
    "url": "address, such as http://127.0.0.1:8080, http://127.0.0.1:8000/v1 or one with the whole path (required)",
    "protocol": "'djl' (this server, DJL Serving, SageMaker containers; the default), 'openai' (completions) or "
    "'openai-chat'",
    "model_name": "the model's name there (default model)",
    "api_key_env": "environment variable that holds its API key, a bearer token that is never stored (default none)",
}
DTYPES = ("fp32", "bf16", "fp16", "int8", "int4")
PING_PATHS = {
    "djl": ("/ping", "/"),
    "openai": ("/health", "/v1/models", "/models", "/ping", "/"),
    "openai-chat": ("/health", "/v1/models", "/models", "/ping", "/"),
}
"""Asked below the host and below each folder of the address's own path, which may be behind a gateway."""
WANTS_POST = 405
"""The statuses with which a server refuses GET where it takes POST: it is there."""
POLL_S = 0.2
CHECK_S = 2.0


class AttachedEndpoint:
    """A RunningEngine that owns nothing: no process ids, and whether it still runs is seen by its requests alone."""

    def __init__(self, endpoint: Endpoint, facts: EngineFacts) -> None:
        self.endpoint = endpoint
        self.facts = facts
        self.pids: tuple[int, ...] = ()
        self._checked = time.monotonic()
        self._failure: EngineError | None = None

    def failure(self) -> EngineError | None:
        """None while something answers at the address; asks at most every CHECK_S, so as not to be load itself."""
        if time.monotonic() - self._checked >= CHECK_S:
            is_there = _answers(self.endpoint)
            self._failure = None if is_there else LaunchFailed(f"nothing answers at {self.endpoint.url} any more")
            self._checked = time.monotonic()
        return self._failure


class AttachEngine:
    """Engine for an endpoint that is already running."""

    name = "attach"

    def probe(self) -> Availability:
        """Always available; whether the address answers is seen at launch."""
        return Availability(is_available=True)

    def capabilities(self) -> Capabilities:
        """Every dtype and degree: what runs there is not ours to check, so the effective dtype is 'unknown'."""
        return Capabilities(
            effective_dtypes=dict.fromkeys(DTYPES, "unknown"),
            max_tensor_parallel_degree=1 << 16,
            has_rolling_batch=True,
            devices=("cpu", "cuda"),
            options=OPTIONS,
            model_kinds=(),
        )

    @contextmanager
    def launch(self, spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> Iterator[AttachedEndpoint]:
        """Wait until a ping answers 200, or the address itself that it takes POST. Raises SpecInvalid (no usable url)
        and NotReady."""
        check_spec(spec, self.capabilities())
        protocol = choice(spec, "protocol", tuple(PING_PATHS), "djl")
        endpoint = Endpoint(
            url=_url(spec),
            protocol=protocol,
            model_name=str(spec.options.get("model_name", "model")),
            api_key_env=_key_variable(spec),
        )
        begin = time.monotonic()
        while not _answers(endpoint):
            if time.monotonic() - begin >= ready_timeout_s:
                tried = ", ".join(_pings(endpoint)[: len(PING_PATHS[protocol])])
                raise NotReady(
                    f"nothing answered 200 within {ready_timeout_s:g} s; tried {tried}, the same below each folder of "
                    f"the address, and whether {endpoint.url} takes POST; start the server first, or correct option url"
                )
            time.sleep(POLL_S)
        notes = ("attached: dtype, versions, memory and CPU of the server are not known",)
        facts = EngineFacts(effective_dtype="unknown", versions={}, load_s=time.monotonic() - begin, notes=notes)
        yield AttachedEndpoint(endpoint, facts)


def _url(spec: EngineSpec) -> str:
    url = str(spec.options.get("url", ""))
    parts = urllib.parse.urlsplit(url)
    try:
        is_usable = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        is_usable = False
    if not is_usable:
        raise SpecInvalid(f"attach: option url={url!r}: expected an address such as http://127.0.0.1:8080")
    return url.rstrip("/")


def _key_variable(spec: EngineSpec) -> str:
    name = str(spec.options.get("api_key_env", ""))
    if name:
        key = os.environ.get(name, "")
        if not key:
            raise SpecInvalid(f"attach: option api_key_env={name!r}: this environment variable is not set; export it")
        if not (key.isascii() and key.isprintable()):
            raise SpecInvalid(f"attach: option api_key_env={name!r}: expected one line of ASCII in this variable")
    return name


def _answers(endpoint: Endpoint) -> bool:
    headers = authorization(endpoint.api_key_env)
    is_ready = any(http_status(url, headers=headers) == 200 for url in _pings(endpoint))
    return is_ready or http_status(endpoint.url, headers=headers) == WANTS_POST


def _pings(endpoint: Endpoint) -> list[str]:
    parts = urllib.parse.urlsplit(endpoint.url)
    folders = ["", *itertools.accumulate(f"/{name}" for name in parts.path.split("/")[1:])]
    return [f"{parts.scheme}://{parts.netloc}{at}{path}" for at in folders for path in PING_PATHS[endpoint.protocol]]
