"""The check of options: an own server's against the version that is there, a hosted engine's against its adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from engines.errors import ModelInvalid
from engines.registry import BACKENDS, traits
from engines.spec_check import why_not
from harness.load.protocol.registry import CHATS
from harness.scenario.engine_block import EngineBlock
from harness.scenario.fields import did_you_mean, sentence
from harness.scenario.resolve import ResolvedScenario
from harness.space.candidates import place_of
from harness.space.capabilities import Known, known_options, model_kind_of

PLACES = ("command", "image")
"""Options that name the server itself."""


def option_problems(resolved: ResolvedScenario, at: Callable[..., str]) -> list[str]:
    """Sentences, each once, that begin with what `at` makes of a field's path."""
    found: dict[str, None] = {}
    for index, block, known in _blocks(resolved):
        for name, values in block.options.items():
            for value in values:
                if text := _problem(block.engine, name, value, known):
                    found[f"{at('space', index, 'options', name)}{text}"] = None
    return [*found, *_chat_problems(resolved, at)]


def unchecked_options(resolved: ResolvedScenario) -> list[str]:
    """A sentence for each engine whose options were not checked against the server that would run, and why not."""
    found: dict[str, None] = {}
    for _, block, known in _blocks(resolved):
        if not known.why_unchecked:
            continue
        able = known.able
        others = [name for name in block.options if name not in PLACES]
        names = [name for name in others if able is None or (able.has_open_options and name not in able.options)]
        which = f"not checked ({', '.join(names)})" if names else "checked without it"
        if names or (able is not None and not able.has_open_options):
            found[f"options of {block.engine} were {which}: {known.why_unchecked}"] = None
    return list(found)


def _chat_problems(resolved: ResolvedScenario, at: Callable[..., str]) -> list[str]:
    """Sentences about the option `protocol` that wants a chat of a model without chat template."""
    places = [
        (index, chat)
        for index, block, _ in _blocks(resolved)
        for chat in CHATS
        if chat in block.options.get("protocol", ()) and "chat_template" not in block.options
    ]
    try:
        kind = model_kind_of(resolved) if places else None
    except ModelInvalid:
        return []  # a damaged folder is refused where it is read
    if kind is None or kind.has_chat_template:
        return []
    model = resolved.model.value
    return [
        at("space", index, "options", "protocol") + sentence(f"a model with a chat template beside {chat}", model)
        for index, chat in places
    ]


def _blocks(resolved: ResolvedScenario) -> Iterator[tuple[int, EngineBlock, Known]]:
    """Each block with options of an engine whose options can be known, and what is known of these."""
    for index, block in enumerate(resolved.scenario.space):
        if block.options and (traits(block.engine).has_start_file or block.engine in BACKENDS):
            yield index, block, known_options(block.engine, *place_of(block, resolved.path.parent))


def _problem(engine: str, name: str, value: bool | int | float | str, known: Known) -> str:
    if known.able is None:
        return ""
    takes = known.able.option_values.get(name)
    if takes is None or name not in known.able.options:
        return why_not(engine, f"options.{name}", value, known.able)
    hint = did_you_mean(takes.text(value), takes.choices)
    return "" if takes.takes(value) else sentence(takes.expected, value, hint)
