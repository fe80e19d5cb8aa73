"""The check of what a scenario will ask whom: options of engine attach, and parameters that our own server refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain, product

from engines.adapters.attach import option_problems
from engines.errors import RequestInvalid
from engines.registry import traits
from engines.server.body import parse_body
from engines.setting import OptionValue
from harness.load.protocol.registry import CHATS, RESPONSES
from harness.scenario.engine_block import EngineBlock
from harness.scenario.fields import sentence
from harness.scenario.resolve import ResolvedScenario


def request_problems(resolved: ResolvedScenario, at: Callable[..., str]) -> list[str]:
    """Sentences, each once, that begin with what `at` makes of a field's path."""
    found: dict[str, None] = {}
    for index, block in enumerate(resolved.scenario.space):
        problems = _of_attached(resolved, block) if traits(block.engine).is_elsewhere else _of_ours(resolved, block)
        for path, text in chain(_of_kept(resolved, block), problems):
            place = ("space", index, *path[1:]) if path[0] == "space" else path
            found[f"{at(*place)}{text}"] = None
    return list(found)


def _of_kept(resolved: ResolvedScenario, block: EngineBlock) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Servers that are to keep conversations by a protocol that has no word for it."""
    conversations = resolved.scenario.workload.conversations
    if conversations is None or conversations.history != "server":
        return
    for protocol in block.options.get("protocol", ("no protocol",)):
        if protocol != RESPONSES:
            what = f"{RESPONSES} beside conversations.history: server"
            yield ("space", "options", "protocol"), sentence(what, protocol, "or write history: own")


def _of_attached(resolved: ResolvedScenario, block: EngineBlock) -> Iterator[tuple[tuple[str | int, ...], str]]:
    workload = resolved.scenario.workload
    for options in _combinations(block):
        for name, text in option_problems(options):
            yield ("space", "options", name), text
        protocol = options.get("protocol")
        if workload.chat and not (str(protocol).startswith("openai") if protocol else "server" in options):
            what = sentence("openai, openai-chat or openai-responses beside workload.chat", protocol or "no protocol")
            yield ("space", "options", "protocol"), what
        if options.get("protocol") in CHATS and workload.inputs_per_request > 1 and workload.template is None:
            yield (
                ("workload", "inputs_per_request"),
                sentence("1, because a chat request carries one prompt", workload.inputs_per_request),
            )


def _combinations(block: EngineBlock) -> Iterator[dict[str, OptionValue]]:
    names = list(block.options)
    for values in product(*block.options.values()):
        yield dict(zip(names, values, strict=True))


def _of_ours(resolved: ResolvedScenario, block: EngineBlock) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What our own server would answer 400 to, once for every request."""
    if traits(block.engine).takes_request:
        return
    parameters = resolved.scenario.workload.parameters.model_dump()
    for name, value in parameters.items():
        try:
            given = {"max_new_tokens": parameters["max_new_tokens"], name: value}
            parse_body(json.dumps({"inputs": "x", "parameters": given}).encode())
        except RequestInvalid as error:
            text = str(error).removeprefix(f"parameters.{name}: ")
            yield ("workload", "parameters", name), f"{block.engine} refuses {value!r}: {text}"
