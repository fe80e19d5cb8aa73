"""The request protocols by name. One more protocol: its file, and a row here."""

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
