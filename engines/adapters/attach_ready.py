"""Readiness of a server that somebody else runs, and what it answers about the model it serves."""

from __future__ import annotations

import itertools
import json
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engines.adapters.api_key import authorization
from engines.api import Endpoint
from engines.processes.http_look import Look, look

PING_PATHS = {
    "djl": ("/ping", "/health", "/"),
    "openai": ("/health", "/v1/models", "/models", "/ping", "/"),
    "openai-chat": ("/health", "/v1/models", "/models", "/ping", "/"),
    "openai-responses": ("/health", "/v1/models", "/models", "/ping", "/"),
}
"""Asked below the host and below each folder of the address's own path, which may be behind a gateway."""
MODEL_PATHS = ("/v1/models", "/models", "/info", "/facts", "/get_server_info", "/get_model_info")
"""OpenAI's list (vLLM, SGLang, TGI, llama.cpp), TGI's and this project's own facts, SGLang's: who knows, answers."""

METRICS_PATHS = ("/metrics", "/server/metrics")
"""Nearly everybody's, and DJL Serving's."""

READY_STATUS = 200

Looks = Callable[[str, Mapping[str, str]], Look]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The user's own sign of readiness: GET `path` answers `status`. Without a path, the usual ones are asked."""

    path: str = ""
    status: int = READY_STATUS


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a server reports about its model; '' where it does not."""

    model: str = ""
    dtype: str = ""
    note: str = ""


def _look(url: str, headers: Mapping[str, str]) -> Look:
    return look(url, headers=headers)


def why_not_ready(endpoint: Endpoint, ready: Ready, look_at: Looks = _look) -> str:
    """'' when the server is ready, else what it lacks.

    Where the user names a path, its status decides. Else a health path that answers 200 is enough; one that answers 5xx
    is loading; a server that has none answers them with 404 or the like, and so does its address, which takes POST.
    """
    headers = authorization(endpoint.api_key_env)
    if ready.path:
        found = look_at(_below(endpoint.url, "", ready.path), headers)
        return "" if found.status == ready.status else f"{found}; it is ready when it answers {ready.status}"
    loading: Look | None = None
    for url in (*_health_addresses(endpoint), endpoint.url):
        found = look_at(url, headers)
        if found.status is None:
            return str(found)
        if found.status == 200:
            return ""
        if found.is_loading and loading is None:
            loading = found
    return f"{loading}: it is loading" if loading else ""


def served_model(endpoint: Endpoint, look_at: Looks = _look) -> Served:
    """The model and the dtype that the server reports, by the first address that knows each."""
    headers = authorization(endpoint.api_key_env)
    model = dtype = note = ""
    for folder in _folders(endpoint.url):
        for path in MODEL_PATHS:
            found = look_at(_below(endpoint.url, folder, path), headers)
            if found.status is None:
                return Served(model=model, dtype=dtype, note=note)
            value = _json(found)
            if not model:
                model, remark = _model_in(value, endpoint.model_name)
                note = "" if model else note or remark
            dtype = dtype or _dtype_in(value)
            if model and dtype:
                break
        if model:
            break
    return Served(model=model, dtype=dtype, note=note)


def metrics_addresses(url: str) -> tuple[str, ...]:
    """Where the server at that address may publish its metrics, below the host and each folder of the path."""
    return tuple(_below(url, folder, path) for folder in _folders(url) for path in METRICS_PATHS)


def slots_address(url: str) -> str:
    """Where llama.cpp names its slots; other servers have nothing there."""
    return _below(url, "", "/props")


def _health_addresses(endpoint: Endpoint) -> Iterator[str]:
    for folder in _folders(endpoint.url):
        for path in PING_PATHS[endpoint.protocol]:
            yield _below(endpoint.url, folder, path)


def _folders(url: str) -> list[str]:
    """The path of an address from the host down: '', '/a', '/a/b'."""
    names = [name for name in urllib.parse.urlsplit(url).path.split("/") if name]
    return ["", *itertools.accumulate(f"/{name}" for name in names)]


def _below(url: str, folder: str, path: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{folder}{path}"


def _json(found: Look) -> Any:
    try:
        return json.loads(found.body) if found.status == 200 else None
    except (ValueError, RecursionError):
        return None


def _model_in(value: Any, asked: str) -> tuple[str, str]:
    """(the model that answers requests for `asked`, a remark about others)."""
    if not isinstance(value, dict):
        return "", ""
    rows = value.get("data")
    if isinstance(rows, list):
        names = [row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]
        if asked in names or len(names) == 1:
            return (asked if asked in names else names[0]), ""
        return "", f"it serves {', '.join(names[:5])}, and none of them is model_name {asked!r}" if names else ""
    for key in ("model_id", "model_path", "model_name"):
        if isinstance(value.get(key), str) and value[key]:
            return str(value[key]), ""
    return "", ""


def _dtype_in(value: Any) -> str:
    """The dtype of the weights: 'float16' of 'torch.float16'."""
    if not isinstance(value, dict):
        return ""
    rows = value.get("data")
    for holder in (value, *(rows if isinstance(rows, list) else ())):
        for key in ("model_dtype", "effective_dtype", "quantization", "dtype"):
            word = holder.get(key) if isinstance(holder, dict) else None
            if isinstance(word, str) and word not in ("", "auto", "none", "null"):
                return word.removeprefix("torch.")
    return ""
