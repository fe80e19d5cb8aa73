"""The registry of request protocols by name."""

from __future__ import annotations

from harness.load.protocol.djl import Djl
from harness.load.protocol.interface import RequestProtocol
from harness.load.protocol.openai import OpenAi
from harness.load.protocol.openai_responses import Responses
from harness.load.protocol.template import Template

TEMPLATE = "template"
"""The protocol of a scenario's `workload.template`."""

RESPONSES = "openai-responses"
"""The one by which a server may keep conversations."""
CHATS = ("openai-chat", RESPONSES)
"""Protocols whose requests carry one prompt, in the model's chat template."""

CHAT = {"openai": "openai-chat", "openai-chat": "openai-chat", RESPONSES: RESPONSES, "djl": "djl"}
"""The protocol of a scenario's `workload.chat` at an endpoint that else has the one on the left; "djl" is sent the text
that the model's chat template made."""

PROTOCOLS: dict[str, RequestProtocol] = {
    "djl": Djl(),
    "openai": OpenAi("/v1/completions"),
    "openai-chat": OpenAi("/v1/chat/completions"),
    RESPONSES: Responses(),
    TEMPLATE: Template(),
}
