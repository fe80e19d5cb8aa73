"""The handler that Multi Model Server's Python workers run: one of our backends behind `handle(data, context)`.

Multi Model Server calls it with None once, to load, and then with a batch of requests; each request gets
the answer our own server would give, with its own status code. What to load stands in the JSON file that the variable
DYNO_HANDLER_SPEC names; what was loaded, or why it could not be, is written beside it as worker-<pid>.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import RequestInvalid
from engines.server.answers import shape
from engines.server.body import Body, parse_body
from engines.server.wire import Message
from engines.server.worker import Loaded, answer_batch, load_of

SPEC_VARIABLE = "DYNO_HANDLER_SPEC"
STATUS_OF = {"RequestInvalid": (400, "Bad Request"), "ModelError": (424, "Failed Dependency")}

_loaded: Loaded | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer to one request: HTTP status, JSON body, and tokens generated and read (None for a refusal)."""

    code: int
    phrase: str
    body: bytes
    output_tokens: int | None = None
    input_tokens: int | None = None


def handle(data: Sequence[Mapping[str, Any]] | None, context: Any) -> list[bytes] | None:
    """Load when `data` is None; else one JSON body per request, its status and token counts set on `context`."""
    global _loaded
    if _loaded is None:
        _loaded = _load(Path(os.environ[SPEC_VARIABLE]))
    if data is None:
        return None
    found = replies(_loaded, [request.get("body", request.get("data", b"")) for request in data])
    for index, reply in enumerate(found):
        context.set_response_content_type(index, "application/json")
        context.set_response_status(reply.code, reply.phrase, index)
        if reply.output_tokens is not None:
            context.set_response_header(index, "x-dyno-tokens", str(reply.output_tokens))
            context.set_response_header(index, "x-dyno-input-tokens", str(reply.input_tokens))
    return [reply.body for reply in found]


def replies(loaded: Loaded, requests: Sequence[Any], *, has_counts: bool = False) -> list[Reply]:
    """What our server would answer to each body (bytes, or the object parsed from them), generated as one batch;
    `has_counts`: with the token counts in it, also where no details are asked."""
    bodies = [_body(raw, loaded.defaults) for raw in requests]
    jobs = [_job(index, n, body, text) for index, body in enumerate(bodies) if isinstance(body, Body)
            for n, text in enumerate(body.inputs)]  # fmt: skip
    done = {message["job"]: message for message in answer_batch(loaded, jobs)}
    answers: dict[int, list[Message]] = {}
    for job in jobs:
        answers.setdefault(job["request"], []).append(done[job["id"]])
    return [_reply(body, answers.get(index, []), has_counts) for index, body in enumerate(bodies)]


def _load(path: Path) -> Loaded:
    report = path.with_name(f"worker-{os.getpid()}.json")
    found = load_of(json.loads(path.read_text(encoding="utf-8")))
    if isinstance(found, tuple):
        _write(report, {"error": found[0], "message": found[1]})
        raise RuntimeError(found[1])
    _write(report, {"facts": found.facts})
    return found


def _write(path: Path, value: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value), encoding="utf-8")
    partial.replace(path)


def _body(raw: Any, defaults: Mapping[str, Any]) -> Body | RequestInvalid:
    try:
        data = bytes(raw) if isinstance(raw, bytes | bytearray) else json.dumps(raw).encode()
        body = parse_body(data, defaults)
        if body.wants_stream:
            raise RequestInvalid("stream: this server answers whole requests only; send stream: false")
        return body
    except RequestInvalid as error:
        return error


def _job(request: int, n: int, body: Body, text: object) -> Message:
    params = {name: getattr(body.params, name) for name in body.params.__dataclass_fields__}
    return {"id": (request, n), "request": request, "text": text, "params": params, "wants_stream": False,
            "wants_details": body.wants_details}  # fmt: skip


def _reply(body: Body | RequestInvalid, answers: Sequence[Message], has_counts: bool) -> Reply:
    if isinstance(body, RequestInvalid):
        return _refusal("RequestInvalid", str(body))
    failed = next((answer for answer in answers if "error" in answer), None)
    if failed is not None:
        return _refusal(failed["error"], failed["message"])
    shaped = [shape(answer, body.wants_details) for answer in answers]
    if has_counts and not body.wants_details:
        counts = ("generated_tokens", "input_tokens")
        shaped = [
            {**one, "details": {name: answer[name] for name in counts}}
            for one, answer in zip(shaped, answers, strict=True)
        ]
    return Reply(
        code=200,
        phrase="OK",
        body=json.dumps(shaped if body.is_list else shaped[0]).encode(),
        output_tokens=sum(answer["generated_tokens"] for answer in answers),
        input_tokens=sum(answer["input_tokens"] for answer in answers),
    )


def _refusal(kind: str, message: str) -> Reply:
    code, phrase = STATUS_OF.get(kind, STATUS_OF["ModelError"])
    return Reply(code=code, phrase=phrase, body=json.dumps({"code": code, "type": kind, "message": message}).encode())
