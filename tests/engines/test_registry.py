"""What is known of every engine without asking it."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from engines.launching import engine_here
from engines.models.checkpoint.kind import DECODER
from engines.registry import BACKENDS, TRAITS, traits
from engines.setting import OptionValue


@pytest.mark.parametrize(
    ("engine", "options", "caches"),
    [
        ("attach", {}, True),
        ("vllm", {}, False),
        ("vllm", {"enable_prefix_caching": False}, False),
        ("vllm", {"enable_prefix_caching": True}, True),
        ("llamacpp", {}, False),
        ("llamacpp", {"cache_prompt": True}, True),
        ("llamacpp", {"cache_prompt": "true"}, True),
        ("t5", {"cache_prompt": True}, False),
    ],
)
def test_which_servers_may_answer_from_a_prefix_cache(
    engine: str, options: dict[str, OptionValue], caches: bool
) -> None:
    assert traits(engine).caches_prompts(options) is caches


def test_the_options_that_sglangs_least_memory_depends_on_are_its_own() -> None:
    known = json.loads((files("engines.foreign_servers.python_servers") / "sglang_arguments.json").read_text())
    least = traits("sglang").least_memory
    assert least is not None
    named = {*least.smaller_by, *least.unknown_by, *least.type_options, least.share_option}
    assert named <= known["arguments"].keys()


@pytest.mark.heavy
@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_every_option_of_an_engine_that_our_server_hosts_states_its_values(name: str) -> None:
    if name == "ctranslate2":
        pytest.importorskip("ctranslate2")
    able = engine_here(name).capabilities()
    assert able.options.keys() == able.option_values.keys()


@pytest.mark.parametrize("name", [name for name, each in TRAITS.items() if each.model_kinds])
def test_kinds_of_models_that_are_known_without_asking_are_the_engines(name: str) -> None:
    engine: Any = engine_here(name)
    assert traits(name).model_kinds == (DECODER,)
    features = engine.features if hasattr(engine, "features") else engine.capabilities().features
    assert features["model_kinds"] == "decoder-only"
