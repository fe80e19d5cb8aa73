"""Known servers of engine attach: their protocol, health path and words; what was never run is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engines.adapters.attach import OPTIONS, AttachedEndpoint, AttachEngine, option_problems
from engines.adapters.attach_servers import SERVERS, not_yet_run
from engines.api import EngineSpec
from harness.errors import UsageError
from harness.load.protocol.interface import Form
from harness.load.protocol.registry import PROTOCOLS
from tests.harness.load.odd_server import odd_server
from tests.harness.load.protocol.prompts import prompts_of_texts

PARAMETERS = {"max_new_tokens": 8, "min_new_tokens": 8}


@contextmanager
def attached(workdir: Path, **options: str) -> Iterator[AttachedEndpoint]:
    asked: list[str] = []

    def healthy(odd: Any, body: object) -> None:
        asked.append(odd.path)
        odd.answer(b"{}")

    with odd_server(healthy) as url:
        spec = EngineSpec(engine="attach", model_dir=Path(), options={"url": url, **options})
        with AttachEngine().launch(spec, workdir, 5.0) as running:
            assert asked[0] == "/health"
            yield running


def body_of(endpoint: Any, parameters: dict[str, object]) -> dict[str, Any]:
    protocol = PROTOCOLS[endpoint.protocol]
    form = Form(path=protocol.default_path, parameters={}, dialect=endpoint.dialect)
    found: dict[str, Any] = json.loads(protocol.body(form, prompts_of_texts("a"), parameters))
    return found


@pytest.mark.parametrize(
    ("server", "protocol", "fields"),
    [
        ("vllm", "openai", {"min_tokens": 8}),
        ("llamacpp", "openai", {"ignore_eos": True, "cache_prompt": False}),
        ("sglang", "openai", {"min_tokens": 8}),
        ("trtllm_serve", "openai", {"min_tokens": 8}),
    ],
)
def test_a_known_server_is_asked_in_its_own_words(
    server: str, protocol: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    with attached(tmp_path, server=server) as running:
        assert running.endpoint.protocol == protocol
        body = body_of(running.endpoint, dict(PARAMETERS))
        assert {name: body[name] for name in body if name in ("min_tokens", "ignore_eos", "cache_prompt")} == fields
        untried = [note for note in running.facts.notes if "was not yet run here: its words are untried" in note]
        assert len(untried) == (not SERVERS[server].is_run)


def test_a_server_without_a_word_for_a_minimum_refuses_one(tmp_path: Path) -> None:
    with attached(tmp_path, server="tgi") as running:
        assert running.endpoint.protocol == "openai-chat"
        with pytest.raises(UsageError, match="this server has no word for a minimum; set it to 0"):
            body_of(running.endpoint, dict(PARAMETERS))
        assert "min_tokens" not in body_of(running.endpoint, {"max_new_tokens": 8, "min_new_tokens": 0})
    with attached(tmp_path, server="tgi", protocol="openai") as running:
        assert running.endpoint.protocol == "openai"


@pytest.mark.parametrize(
    ("server", "words"), [("vllm", {"ignore_eos": True}), ("llamacpp", {"ignore_eos": True, "cache_prompt": False})]
)
def test_responses_know_no_minimum_and_a_few_servers_go_on_to_the_end(
    server: str, words: dict[str, Any], tmp_path: Path
) -> None:
    with attached(tmp_path, server=server, protocol="openai-responses") as running:
        body = body_of(running.endpoint, dict(PARAMETERS))
    assert (body["max_output_tokens"], "min_tokens" in body) == (8, False)
    assert words.items() <= body.items()
    with attached(tmp_path, protocol="openai-responses") as running:
        assert running.endpoint.dialect.exact_tokens == "none"


def test_an_unknown_server_gets_the_nearest_one_and_untried_ones_are_named() -> None:
    (problem,) = option_problems({"url": "http://h:1", "server": "sglan"})
    assert problem[0] == "server"
    assert "expected one of vllm, llamacpp, sglang, trtllm_serve, tgi, got 'sglan'" in problem[1]
    assert "did you mean 'sglang'?" in problem[1]
    assert not_yet_run() == ("SGLang", "trtllm-serve", "TGI")
    assert "not yet run: SGLang, trtllm-serve, TGI" in OPTIONS["server"]
