"""Adapter for an endpoint that already runs (engine `attach`): measured as found, never started or stopped."""

from __future__ import annotations

import os
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from engines.adapters.attach_ready import (
    PING_PATHS,
    READY_STATUS,
    Ready,
    Served,
    metrics_addresses,
    served_model,
    slots_address,
    why_not_ready,
)
from engines.adapters.attach_servers import ANYBODY, SERVERS, not_yet_run
from engines.api import Availability, Capabilities, Endpoint, EngineFacts, EngineSpec
from engines.errors import EngineError, LaunchFailed, NotReady, SpecInvalid
from engines.metrics_page import MetricsPage
from engines.nearest import did_you_mean
from engines.processes.http_look import is_refused
from engines.processes.waiting import Waiting
from engines.setting import OptionValue
from engines.spec_check import check_spec

OPTIONS = {
    "url": "address, such as http://127.0.0.1:8080, http://127.0.0.1:8000/v1 or one with the whole path (required)",
    "server": f"which one it is, whose words and health path then hold: {', '.join(SERVERS)} "
    f"(not yet run: {', '.join(not_yet_run())})",
    "protocol": "'djl' (this server, DJL Serving, SageMaker containers; the default without server), "
    "'openai' (completions), 'openai-chat' or 'openai-responses', which may keep conversations",
    "model_name": "the model's name there (default model)",
    "api_key_env": "environment variable that holds its API key, a bearer token that is never stored (default none)",
    "ready_path": "it is ready when GET of this path answers ready_status (default: the usual health paths)",
    "ready_status": "the status that ready_path answers when it is ready (default 200)",
}
DTYPES = ("fp32", "bf16", "fp16", "int8", "int4")
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
        """None while somebody listens at the address, however busy; asks at most every CHECK_S, and nothing that a
        server would have to answer."""
        if time.monotonic() - self._checked >= CHECK_S:
            is_gone = is_refused(self.endpoint.url)
            self._failure = LaunchFailed(f"nothing answers at {self.endpoint.url} any more") if is_gone else None
            self._checked = time.monotonic()
        return self._failure


class AttachEngine:
    """Engine for an endpoint that is already running. `waiting` makes the clock of a wait, from its seconds."""

    name = "attach"

    def __init__(self, waiting: Callable[[float], Waiting] = Waiting) -> None:
        self._waiting = waiting

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
            changes_answers={"batch_size": DTYPES},  # whoever started the server may have changed more
        )

    @contextmanager
    def launch(self, spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> Iterator[AttachedEndpoint]:
        """Wait until the server is ready, see `why_not_ready`. Raises SpecInvalid (unusable options) and NotReady."""
        check_spec(spec, self.capabilities())
        if problems := option_problems(spec.options):
            raise SpecInvalid("; ".join(f"attach: option {name}: {text}" for name, text in problems))
        server = SERVERS.get(str(spec.options.get("server", "")), ANYBODY)
        protocol = str(spec.options.get("protocol", server.protocol))
        url = _without_last_slash(str(spec.options["url"]))
        dialect = server.dialect_of(protocol)
        keeps = dialect.fields.get("cache_prompt", True)  # where no request asks the cache its size says nothing
        endpoint = Endpoint(
            url=url,
            protocol=protocol,
            model_name=str(spec.options.get("model_name", "model")),
            api_key_env=_key_variable(spec),
            dialect=dialect,
            metrics=MetricsPage(
                urls=metrics_addresses(url), words=server.words, slots=slots_address(url) if keeps else ""
            ),
        )
        ready = Ready(
            path=str(spec.options.get("ready_path", server.ready_path)),
            status=int(spec.options.get("ready_status", READY_STATUS)),
        )
        waiting = self._waiting(ready_timeout_s)
        while (why := why_not_ready(endpoint, ready)) != "":
            if waiting.is_over:
                raise NotReady(
                    f"{why}; not ready within {ready_timeout_s:g} s; start the server first, correct option url, name "
                    "its health path by options ready_path and ready_status, or raise ready_timeout_s"
                )
            waiting.pause(POLL_S, why)
        facts = _facts(served_model(endpoint), waiting.waited_s)
        if server.title and not server.is_run:
            facts = replace(facts, notes=(*facts.notes, f"{server.title} was not yet run here: its words are untried"))
        yield AttachedEndpoint(endpoint, facts)


def option_problems(options: Mapping[str, OptionValue]) -> list[tuple[str, str]]:
    """(option, what is wrong with it) of all that can be known without asking anybody."""
    problems = [
        (name, f"attach has no such option{did_you_mean(name, OPTIONS) or '; known: ' + ', '.join(OPTIONS)}")
        for name in options
        if name not in OPTIONS
    ]
    url = options.get("url", "")
    if problem := _address_problem(url):
        problems.append(("url", problem))
    server = options.get("server")
    if server is not None and server not in SERVERS:
        known = ", ".join(SERVERS)
        problems.append(("server", f"expected one of {known}, got {server!r}{did_you_mean(str(server), SERVERS)}"))
    protocol = options.get("protocol", "djl")
    if protocol not in PING_PATHS:
        hint = did_you_mean(str(protocol), PING_PATHS)
        problems.append(("protocol", f"expected one of {', '.join(PING_PATHS)}, got {protocol!r}{hint}"))
    path = options.get("ready_path", "/")
    if not (isinstance(path, str) and path.startswith("/")):
        problems.append(("ready_path", f"expected a path of the host such as /healthz, got {path!r}"))
    status = options.get("ready_status", READY_STATUS)
    if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 599:
        problems.append(("ready_status", f"expected an HTTP status such as 200, got {status!r}"))
    elif "ready_status" in options and "ready_path" not in options:
        problems.append(("ready_status", "expected it beside ready_path, got no path"))
    return problems


def _address_problem(url: OptionValue) -> str:
    """'' where `url` is an address that can be asked."""
    problem = f"expected an address such as http://127.0.0.1:8080, got {url!r}"
    if not isinstance(url, str) or any(char.isspace() for char in url):
        return problem
    try:
        parts = urllib.parse.urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return problem
    if not is_one:
        return problem
    if "@" in parts.netloc:
        return "expected an address without a user and password; write them into workload.request.headers"
    if not (url.isascii() and url.isprintable()):
        return f"expected an address in ASCII, got {url!r}; write its path with %xx and its host with xn--"
    return ""


def _without_last_slash(url: str) -> str:
    """The address without a slash at the end of its path; a query stays as it is."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(path=parts.path.rstrip("/"), fragment=""))


def _facts(served: Served, load_s: float) -> EngineFacts:
    unknown = ["dtype"] if not served.dtype else []
    notes = [f"attached: {', '.join([*unknown, 'versions, memory and CPU'])} of the server are not known"]
    return EngineFacts(
        effective_dtype=served.dtype or "unknown",
        versions={},
        load_s=load_s,
        notes=(*notes, served.note) if served.note else tuple(notes),
        served_model=served.model,
    )


def _key_variable(spec: EngineSpec) -> str:
    name = str(spec.options.get("api_key_env", ""))
    if name:
        key = os.environ.get(name, "")
        if not key:
            raise SpecInvalid(f"attach: option api_key_env={name!r}: this environment variable is not set; export it")
        if not (key.isascii() and key.isprintable()):
            raise SpecInvalid(f"attach: option api_key_env={name!r}: expected one line of ASCII in this variable")
    return name
