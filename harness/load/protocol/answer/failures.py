"""Signs of failure inside an answer: error objects, nested or flat, and finish reasons that mean failure."""

from __future__ import annotations

from typing import Any

from harness.load.protocol.answer.json_frames import short
from harness.load.protocol.interface import Filtered, ServerGaveUp

GAVE_UP = frozenset(
    {"error", "abort", "aborted", "cancel", "cancelled", "canceled", "timeout", "timed_out", "failed", "failure"}
)
FILTERED = frozenset({"content_filter", "content_filtered", "filtered", "safety", "recitation", "blocklist", "blocked",
                      "prohibited_content", "spii", "guardrail", "guardrail_intervened"})  # fmt: skip
"""Reasons to finish, as OpenAI, vLLM, SGLang, DJL, Hugging Face's server and gateways to other providers write them."""
_ANSWER_KEYS = frozenset({"choices", "generated_text", "outputs", "token"})
_MESSAGE_KEYS = ("message", "error_message", "error_msg")
_LIST_KEYS = ("detail", "errors")


def raise_if_error(value: Any) -> None:
    """Raises ServerGaveUp where a value of an answer reports an error: {"error": ...}, {"object": "error", ...},
    {"type": "error", ...}, or a message without an answer. "error": null is none."""
    if not isinstance(value, dict):
        return
    if value.get("error") or value.get("object") == "error" or value.get("type") == "error":
        raise ServerGaveUp(f"the answer is an error: {short(value.get('error') or value)}")
    if not _ANSWER_KEYS.isdisjoint(value):
        return
    is_message = any(isinstance(value.get(key), str) and value[key] for key in _MESSAGE_KEYS)
    if is_message or any(value.get(key) for key in _LIST_KEYS):
        raise ServerGaveUp(f"the answer is an error: {short(value)}")


def raise_if_failed(finish_reason: Any) -> None:
    """Raises ServerGaveUp or Filtered where this is why an answer ended."""
    if isinstance(finish_reason, dict):  # SGLang's own form: {"type": "abort", "message": ...}
        finish_reason = finish_reason.get("type")
    reason = finish_reason.lower().replace("-", "_") if isinstance(finish_reason, str) else ""
    if reason in GAVE_UP:
        raise ServerGaveUp(f"the answer ended with finish_reason {finish_reason!r}")
    if reason in FILTERED:
        raise Filtered(f"the answer ended with finish_reason {finish_reason!r}")
