"""The registry of request protocols by name."""

from __future__ import annotations

from harness.load.protocol.djl import Djl
from harness.load.protocol.interface import RequestProtocol
from harness.load.protocol.openai import OpenAi
from harness.load.protocol.template import Template

TEMPLATE = "template"
"""The protocol of a scenario's `workload.template`."""

PROTOCOLS: dict[str, RequestProtocol] = {
    "djl": Djl(),
    "openai": OpenAi("/v1/completions"),
    "openai-chat": OpenAi("/v1/chat/completions"),
    TEMPLATE: Template(),
}
