"""The handler that other people's Python model servers run: one of our Backends behind `handle(data, context)`.

Multi Model Server and TorchServe call it with None once, to load, and then with a batch of requests; each request gets
the answer our own server would give, with its own status code. What to load stands in the JSON file that the variable
DYNO_HANDLER_SPEC names; what was loaded, or why it could not be, is written beside it as worker-<pid>.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from engines.errors import RequestInvalid
from engines.server.answers import shape
from engines.server.body import Body, parse_body
from engines.server.wire import Message
from engines.server.worker import Loaded, answer_batch, load_of

SPEC_VARIABLE = "DYNO_HANDLER_SPEC"
STATUS_OF = {"RequestInvalid": (400, "Bad Request"), "ModelError": (424, "Failed Dependency")}

_loaded: Loaded | None = None


def handle(data: Sequence[Mapping[str, Any]] | None, context: Any) -> list[bytes] | None:
    """Load when `data` is None; else one JSON body per request, its status and token counts set on `context`."""
    global _loaded
    if _loaded is None:
        _loaded = _load(Path(os.environ[SPEC_VARIABLE]))
    if data is None:
        return None
    bodies = [_body(request) for request in data]
    jobs = [_job(index, n, body, text) for index, body in enumerate(bodies) if isinstance(body, Body)
            for n, text in enumerate(body.inputs)]  # fmt: skip
    answers: dict[int, list[Message]] = {}
    for job, answer in zip(jobs, _in_batches(jobs, _loaded), strict=True):
        answers.setdefault(job["request"], []).append(answer)
    return [_reply(index, body, answers.get(index, []), context) for index, body in enumerate(bodies)]


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


def _body(request: Mapping[str, Any]) -> Body | RequestInvalid:
    """The request's body; a server that has parsed JSON already hands over the object."""
    raw = request.get("body", request.get("data", b""))
    try:
        body = parse_body(bytes(raw) if isinstance(raw, bytes | bytearray) else json.dumps(raw).encode())
        if body.wants_stream:
            raise RequestInvalid("stream: this server answers whole requests only; send stream: false")
        return body
    except RequestInvalid as error:
        return error


def _job(request: int, n: int, body: Body, text: str) -> Message:
    params = {name: getattr(body.params, name) for name in body.params.__dataclass_fields__}
    return {"id": (request, n), "request": request, "text": text, "params": params, "wants_stream": False,
            "wants_details": body.wants_details}  # fmt: skip


def _in_batches(jobs: Sequence[Message], loaded: Loaded) -> list[Message]:
    """The finished message of every job, in order."""
    done = {cast(Any, message["job"]): message for message in answer_batch(loaded, jobs)}
    return [done[job["id"]] for job in jobs]


def _reply(index: int, body: Body | RequestInvalid, answers: Sequence[Message], context: Any) -> bytes:
    context.set_response_content_type(index, "application/json")
    if isinstance(body, RequestInvalid):
        return _refuse(index, "RequestInvalid", str(body), context)
    failed = next((answer for answer in answers if "error" in answer), None)
    if failed is not None:
        return _refuse(index, failed["error"], failed["message"], context)
    context.set_response_status(200, "OK", index)
    context.set_response_header(index, "x-dyno-tokens", str(sum(a["generated_tokens"] for a in answers)))
    context.set_response_header(index, "x-dyno-input-tokens", str(sum(a["input_tokens"] for a in answers)))
    shaped = [shape(answer, body.wants_details) for answer in answers]
    return json.dumps(shaped if body.is_list else shaped[0]).encode()


def _refuse(index: int, kind: str, message: str, context: Any) -> bytes:
    code, phrase = STATUS_OF.get(kind, STATUS_OF["ModelError"])
    context.set_response_status(code, phrase, index)
    return json.dumps({"code": code, "type": kind, "message": message}).encode()
