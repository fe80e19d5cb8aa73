"""The real transformers serve on the bundled decoder: lengths, counts, greedy answers, streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from engines.api import EngineSpec, RunningEngine, ScriptedEngine
from engines.foreign_servers.python_servers.transformers_serve import TransformersServeEngine
from engines.launching import load_engine
from engines.models.chat_template import ChatTemplate
from engines.models.tokenizer import Tokenizer
from harness.load.protocol.interface import Form
from harness.load.protocol.registry import PROTOCOLS
from harness.records import Prompt
from tests.conformance.engine_suite import EngineCase, EngineSuite
from tests.harness.load.plans import measured_of, plan_of, run_load
from tests.harness.load.protocol.prompts import TALK, prompts_of_texts

pytestmark = pytest.mark.heavy

MODEL_DIR = Path(__file__).parents[2] / "scenarios" / "assets" / "llama-bench"
PROMPTS = ("spell: 42\n", "date: 04/12/1987\n", "label: the soup was cold.\n", "spell: 1,306,346\n")
NEW = 20
READY_S = 120.0
SPEC = EngineSpec(engine="transformers_serve", model_dir=MODEL_DIR, threads=1)


@contextmanager
def served(workdir: Path, script: Path | None = None, **changes: Any) -> Iterator[RunningEngine]:
    """One server; nothing of it is there afterwards."""
    engine = load_engine("transformers_serve")
    if not (found := engine.probe()).is_available:
        pytest.skip(f"transformers_serve cannot run here: {found.reason}")
    assert isinstance(engine, ScriptedEngine)
    spec = replace(SPEC, **changes)
    started = engine.launch_script(script, spec, workdir, READY_S) if script else engine.launch(spec, workdir, READY_S)
    with started as running:
        pids = running.pids
        assert pids
        yield running
        assert running.failure() is None
    assert not [pid for pid in pids if psutil.pid_exists(pid)], "processes stayed behind"


@pytest.fixture(scope="module")
def running(own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with served(tmp_path_factory.mktemp("work")) as one:
        yield one


def ask(
    running: RunningEngine, asked: str | Prompt, protocol: str = "openai", *, stream: bool = False, **parameters: Any
) -> Any:
    """The answer to one prompt in our own words, in the endpoint's dialect."""
    endpoint = running.endpoint
    path = PROTOCOLS[protocol].default_path
    form = Form(
        path=path, model_name=endpoint.model_name, parameters=parameters, stream=stream, dialect=endpoint.dialect
    )
    prompts = (asked,) if isinstance(asked, Prompt) else prompts_of_texts(asked)
    body = PROTOCOLS[protocol].body(form, prompts, parameters)
    headers = {"Content-Type": "application/json"}
    raw = httpx.post(endpoint.url + path, content=body, headers=headers, timeout=60.0, trust_env=False)
    assert raw.status_code == 200, raw.text
    return PROTOCOLS[protocol].read(form, raw.content, ((1, len(raw.content)),) if stream else (), 1)


@cache
def loaded() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL_DIR), AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype="float32")


def hugging_faces(text: str, *, adds_special: bool = True, **parameters: Any) -> str:
    """Greedy in fp32."""
    import torch

    tokenizer, model = loaded()
    torch.set_num_threads(1)  # the server computes on the same cores
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=adds_special)
    written = model.generate(**ids, do_sample=False, **{"max_new_tokens": NEW, **parameters})[
        0, ids["input_ids"].shape[1] :
    ]
    return str(tokenizer.decode(written, skip_special_tokens=True))


@pytest.mark.parametrize("protocol", ["openai", "openai-chat"])
@pytest.mark.parametrize("stream", [False, True])
def test_as_many_tokens_come_as_are_asked_for(running: RunningEngine, protocol: str, stream: bool) -> None:
    for asked in (1, 7, NEW):
        answer = ask(running, PROMPTS[0], protocol, stream=stream, max_new_tokens=asked, min_new_tokens=asked)
        assert answer.output_tokens == asked


def test_greedy_answers_and_counts_are_hugging_faces(running: RunningEngine) -> None:
    tokenizer = Tokenizer.load(MODEL_DIR)
    for text in PROMPTS[1:3]:
        exact = {"max_new_tokens": NEW, "min_new_tokens": NEW}
        for parameters in (exact, {"max_new_tokens": NEW}, {**exact, "repetition_penalty": 1.5}):
            answer = ask(running, text, **parameters)
            assert answer.parts[0].text == hugging_faces(text, **parameters)
            assert answer.input_tokens == len(tokenizer.encode(text))


def test_a_conversation_is_read_as_the_models_template_renders_it(running: RunningEngine) -> None:
    rendered = ChatTemplate.load(MODEL_DIR).render([{"role": role, "content": text} for role, text in TALK.turns])
    answer = ask(running, TALK, "openai-chat", max_new_tokens=NEW)
    assert answer.input_tokens == len(Tokenizer.load(MODEL_DIR).encode_rendered(rendered))
    assert answer.parts[0].text == hugging_faces(rendered, adds_special=False, max_new_tokens=NEW)


def test_streams_of_several_users_lose_nothing(running: RunningEngine, tmp_path: Path) -> None:
    _load(running, tmp_path, users=2)


def _load(running: RunningEngine, folder: Path, *, users: int) -> None:
    prompts = tuple(Prompt(prompt_id=f"p{n}", task="t", text=text, reference=None) for n, text in enumerate(PROMPTS))
    endpoint = running.endpoint
    plan = plan_of(
        endpoint.url,
        protocol=endpoint.protocol,
        model_name=endpoint.model_name,
        dialect=endpoint.dialect,
        prompts=prompts,
        parameters={"max_new_tokens": 8, "min_new_tokens": 8},
        users=users,
        requests=12,
        stream=True,
    )
    measured = measured_of(run_load(plan, folder))
    assert len(measured) == 12
    assert {(record.outcome, record.output_tokens) for record in measured} == {("ok", 8)}


def test_a_kept_script_starts_a_rolling_batch_that_serves_four_users(tmp_path: Path) -> None:
    rolling: dict[str, Any] = {"rolling_batch": "auto", "options": {"cb_num_blocks": 64}}
    script = tmp_path / "kept.sh"
    script.write_text(TransformersServeEngine().prepared(replace(SPEC, **rolling)).script())
    with served(tmp_path / "work", script, **rolling) as several:
        assert ask(several, PROMPTS[0], max_new_tokens=NEW).parts[0].text == hugging_faces(PROMPTS[0])
        _load(several, tmp_path / "load", users=4)


class TestContract:
    """What the suite of every engine asks of one whose answers are not in our protocol."""

    @pytest.fixture
    def case(self) -> EngineCase:
        engine = load_engine("transformers_serve")
        if not (found := engine.probe()).is_available:
            pytest.skip(f"transformers_serve cannot run here: {found.reason}")
        return EngineCase(engine=engine, spec=SPEC, prompts=PROMPTS)

    test_probe = EngineSuite.test_probe_is_cheap_and_explains_itself
    test_capabilities = EngineSuite.test_capabilities_explain_what_is_refused
    test_features = EngineSuite.test_every_feature_is_answered
    test_damaged_models = EngineSuite.test_a_damaged_model_is_one_sentence
