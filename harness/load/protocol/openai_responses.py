"""The request protocol of OpenAI's Responses, by which a server may keep a conversation under the ids of its answers.

Answers: {"id", "status", "output": [{"type": "message", "content": [{"type": "output_text", "text"}]}, ...], "usage"};
streamed: server-sent events of a type each, response.output_text.delta and others, at last response.completed (or
incomplete, or failed) with the whole. They are read as the choices of a chat's answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.errors import UsageError
from harness.load.protocol.answer.failures import raise_if_error, raise_if_failed
from harness.load.protocol.answer.json_frames import Frame, json_bytes, parsed, short, stream_of
from harness.load.protocol.interface import Answer, BadBody, Form, Marks
from harness.load.protocol.openai import OpenAi, settings, streamed, whole
from harness.records import Kept, Prompt

_DELTAS = {
    "response.output_text.delta": "content",
    "response.refusal.delta": "content",
    "response.reasoning_text.delta": "reasoning",
}
"""Events that add a text -> what of a chat's delta it is. A summary of the reasoning is no token of the answer."""
_CALL_DELTA = "response.function_call_arguments.delta"
_ENDS = ("response.completed", "response.incomplete", "response.failed")
_USAGE = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "prompt_tokens_details": "input_tokens_details",
    "completion_tokens_details": "output_tokens_details",
}
"""A chat's words for counts -> those of this protocol."""


class Responses(OpenAi):
    """Messages of one prompt, of which those that the server keeps are not sent."""

    def __init__(self) -> None:
        super().__init__("/v1/responses")

    def body(self, form: Form, prompts: Sequence[Prompt], parameters: Mapping[str, object]) -> bytes:
        """The system's first messages are the `instructions`, which no answer's id carries over; the others are the
        input. Only an answer that a turn may name is to be stored."""
        if len(prompts) != 1:
            raise UsageError(
                f"endpoint path {form.path!r}: a request to Responses carries one prompt, inputs_per_request asks for "
                f"{len(prompts)}; set it to 1"
            )
        fields = settings(form, parameters)
        if "max_tokens" in fields:
            fields["max_output_tokens"] = fields.pop("max_tokens")
        messages, kept = prompts[0].sent_messages, prompts[0].kept or Kept()
        begin = next((at for at, message in enumerate(messages) if message["role"] != "system"), len(messages))
        if begin:
            fields["instructions"] = "\n\n".join(str(message["content"]) for message in messages[:begin])
        fields["input"] = [item for message in messages[max(begin, kept.messages) :] for item in _items(message)]
        fields["store"] = prompts[0].kept is not None
        if kept.response_id:
            fields["previous_response_id"] = kept.response_id
        if form.stream:
            fields["stream"] = True
        return json_bytes(fields)

    def read(self, form: Form, body: bytes, marks: Marks, prompts: int) -> Answer:
        """The answer; of a stream, the deltas joined."""
        if not form.stream:
            response = parsed(body)
            return replace(whole(_as_chat(response), prompts), response_id=_id_of(response))
        stream = stream_of(body, marks)
        for frame in stream.frames:
            raise_if_error(frame.value)
        ends = [end for frame in stream.frames if (end := _end_in(frame.value)) is not None]
        if not ends:
            raise BadBody(f"the stream was cut after {len(stream.frames)} event(s): no response.completed")
        frames = [Frame(at_ns=frame.at_ns, value=_as_chunk(frame.value)) for frame in stream.frames]
        return replace(streamed(replace(stream, frames=frames), prompts), response_id=_id_of(ends[-1]))


def _items(message: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """A chat's message as items of an input: tool calls and the answers of tools are items by themselves."""
    if message["role"] == "tool":
        yield {"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]}
        return
    if message.get("content"):
        yield {"role": message["role"], "content": message["content"]}
    for call in message.get("tool_calls", ()):
        function = {name: call["function"][name] for name in ("name", "arguments")}
        yield {"type": "function_call", "call_id": call.get("id", ""), **function}


def _id_of(response: Mapping[str, Any]) -> str:
    name = response.get("id")
    if not isinstance(name, str) or not name:
        raise BadBody(f'expected an "id" in the answer, got {short(name)}')
    return name


def _end_in(event: Any) -> dict[str, Any] | None:
    """The whole answer in an event that ends a stream, or in a body that came whole; None in any other."""
    if not isinstance(event, dict):
        raise BadBody(f"expected one event after the other in the stream, got {short(event)}")
    if event.get("object") == "response":
        return event
    if event.get("type") not in _ENDS:
        return None
    response = event.get("response")
    if not isinstance(response, dict):
        raise BadBody(f'expected "response" in the last event, got {short(event)}')
    return response


def _as_chunk(event: dict[str, Any]) -> dict[str, Any]:
    """An event as a frame of a chat's stream."""
    kind = event.get("type")
    if kind == _CALL_DELTA:
        return _chunk({"tool_calls": [{"function": {"arguments": event.get("delta")}}]})
    if isinstance(kind, str) and kind in _DELTAS:
        return _chunk({_DELTAS[kind]: event.get("delta")})
    response = _end_in(event)
    if response is None:
        return {"choices": []}
    chat = _as_chat(response)
    if not response.get("output"):  # some gateways leave it out where the deltas have all
        del chat["choices"][0]["message"]
    return chat


def _chunk(delta: Mapping[str, object]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def _as_chat(response: Any) -> dict[str, Any]:
    """A whole answer as a chat's. Raises NoAnswer."""
    raise_if_error(response)
    reason = _reason(response) if isinstance(response, dict) else ""
    output = response.get("output") if isinstance(response, dict) else None
    if not isinstance(output, list) or not all(isinstance(item, dict) for item in output):
        raise BadBody(f'expected {{"id", "output": [...]}}, got {short(response)}')
    pieces = [piece for item in output if item.get("type") == "message" for piece in _pieces(item)]
    message = {
        "content": pieces,
        "refusal": _joined(pieces, "refusal"),
        "reasoning": "".join(_joined(_pieces(item), "text") for item in output if item.get("type") == "reasoning"),
        "tool_calls": [{"function": item} for item in output if item.get("type") == "function_call"],
    }
    usage = response.get("usage")
    counts = {ours: usage.get(theirs) for ours, theirs in _USAGE.items()} if isinstance(usage, dict) else None
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": counts}


def _pieces(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The typed pieces of an item's content, which may be one text."""
    content = item.get("content")
    if isinstance(content, str):
        return [{"type": "output_text", "text": content}]
    return [piece for piece in content if isinstance(piece, dict)] if isinstance(content, list) else []


def _joined(pieces: Sequence[Mapping[str, Any]], name: str) -> str:
    return "".join(text for piece in pieces if isinstance(text := piece.get(name), str))


def _reason(response: Mapping[str, Any]) -> str:
    """Why the answer ended, in a chat's words. Raises NoAnswer where it failed, or has not ended."""
    status, details = response.get("status", "completed"), response.get("incomplete_details")
    why = details.get("reason") if isinstance(details, dict) else None
    if status == "incomplete":
        return why if isinstance(why, str) and why != "max_output_tokens" else "length"
    raise_if_failed(status)
    if status != "completed":
        raise BadBody(f"expected an answer that is completed, got status {short(status)}")
    return "stop"
