"""What every engine must do, whatever it is: the contract of engines/api.py as tests.

A test module subclasses `EngineSuite` and gives a `case` fixture; `served` is one fp32 server shared by the class, so
that a heavy engine starts few times.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from engines.api import FEATURES, Engine, EngineSpec, RunningEngine
from engines.cache_folder import cache_root
from engines.errors import EngineError, ModelInvalid, SpecInvalid
from engines.hosted import HostedEngine
from engines.models.checkpoint.kind import DECODER, SEQ2SEQ
from engines.setting import DTYPES, OptionValue

READY_TIMEOUT_S = 300.0
REQUEST_TIMEOUT_S = 120.0
PROMPTS = ("spell: 42", "date: 04/12/1987", "label: the soup was cold.", "spell: 1,306,346")

PARALLEL: dict[str, dict[str, OptionValue]] = {"deepspeed": {"communication": "gloo"}}
"""What another degree needs beside; DeepSpeed's shared-memory operator would be compiled for a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCase:
    """One engine under test, and a spec that it should be able to serve in fp32; `parallel_options` are what it needs
    beside for another degree."""

    engine: Engine
    spec: EngineSpec
    prompts: tuple[str, ...]
    parallel_options: Mapping[str, OptionValue] = field(default_factory=dict)

    @property
    def is_hosted(self) -> bool:
        """Whether our model server hosts it; an attached endpoint belongs to somebody else."""
        return isinstance(self.engine, HostedEngine)

    @property
    def reads_model(self) -> bool:
        return bool(getattr(self.engine, "needs_model", False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running engine and a client for it."""

    running: RunningEngine
    client: httpx.Client

    def ask(self, inputs: object, **parameters: object) -> httpx.Response:
        return self.post({"inputs": inputs, "parameters": parameters})

    def post(self, body: object) -> httpx.Response:
        """The endpoint's own path where it names one, else SageMaker's."""
        path = urlsplit(self.running.endpoint.url).path.rstrip("/")
        return self.client.post(path or "/invocations", json=body)

    def tokens(self, prompt: str, **parameters: object) -> list[int]:
        """The generated ids."""
        response = self.ask(prompt, details=True, **parameters)
        assert response.status_code == 200, response.text
        ids: list[int] = response.json()["details"]["tokens"]
        return ids


@contextmanager
def serve(case: EngineCase, workdir: Path, **changes: Any) -> Iterator[Served]:
    """Launch, yield, stop - and check that nothing stayed behind."""
    before = temporary_folders()
    with ExitStack() as stack:
        running = stack.enter_context(case.engine.launch(replace(case.spec, **changes), workdir, READY_TIMEOUT_S))
        parts = urlsplit(running.endpoint.url)
        client = httpx.Client(base_url=f"{parts.scheme}://{parts.netloc}", timeout=REQUEST_TIMEOUT_S, trust_env=False)
        stack.enter_context(client)
        pids = running.pids
        yield Served(running=running, client=client)
        pids = tuple({*pids, *running.pids})
    assert not [pid for pid in pids if psutil.pid_exists(pid)], "processes stayed behind"
    assert temporary_folders() <= before, "a temporary folder stayed behind"
    if case.is_hosted:
        with pytest.raises(httpx.TransportError):
            httpx.get(running.endpoint.url + "/ping", trust_env=False, timeout=2.0)


def temporary_folders() -> set[Path]:
    """The private temporary folders of servers that this process launched."""
    return set(Path(tempfile.gettempdir()).glob(f"dyno-{os.getpid()}-*"))


class EngineSuite:
    """The contract. Every test takes `case` (an EngineCase) or `served` (a Served with batch_size 4)."""

    def test_probe_is_cheap_and_explains_itself(self, case: EngineCase) -> None:
        begin = time.monotonic()
        availability = case.engine.probe()
        assert time.monotonic() - begin < 2.0
        assert availability.is_available
        assert not availability.reason

    def test_capabilities_explain_what_is_refused(self, case: EngineCase) -> None:
        capabilities = case.engine.capabilities()
        assert "fp32" in capabilities.effective_dtypes
        assert capabilities.max_tensor_parallel_degree >= 1
        assert capabilities.devices
        assert all(capabilities.options.values()), "an option without help"
        unexplained = [d for d in DTYPES if d not in capabilities.effective_dtypes and not capabilities.reasons.get(d)]
        assert not unexplained

    def test_facts_say_what_really_runs(self, case: EngineCase, served: Served) -> None:
        facts = served.running.facts
        expected = case.engine.capabilities().effective_dtypes["fp32"]
        assert expected in (facts.effective_dtype, "unknown"), "a server of somebody else may name its own"
        assert facts.load_s >= 0
        assert served.running.failure() is None
        if case.is_hosted:
            assert facts.versions
            assert len(served.running.pids) >= 2
            assert all(psutil.pid_exists(pid) for pid in served.running.pids)

    def test_every_feature_is_answered(self, case: EngineCase) -> None:
        if not case.reads_model:
            pytest.skip(f"{case.engine.name} runs no model of its own")
        features = case.engine.capabilities().features
        assert list(features) == list(FEATURES)
        assert all(features.values())
        kinds = case.engine.capabilities().model_kinds
        assert [word for word in ("T5", "decoder-only") if word in features["model_kinds"]] == [
            {SEQ2SEQ: "T5", DECODER: "decoder-only"}[kind] for kind in kinds
        ]
        assert features["loads_hugging_face"] in ("yes", "converted once")  # the suite serves a Hugging Face folder

    def test_streaming_is_as_the_feature_says(self, case: EngineCase, served: Served) -> None:
        if not case.engine.capabilities().can_stream:
            pytest.skip(f"{case.engine.name} cannot stream")
        body = {"inputs": case.prompts[0], "parameters": {"max_new_tokens": 64, "min_new_tokens": 64}, "stream": True}
        with served.client.stream("POST", "/invocations", json=body) as response:
            chunks = list(response.iter_raw())
        assert len(chunks) > 1, "all tokens came at once, at the end"

    def test_partitioning_while_loading_is_as_the_feature_says(
        self, case: EngineCase, served: Served, tmp_path: Path
    ) -> None:
        able = case.engine.capabilities()
        if not case.reads_model or "tensor" not in able.features["model_parallel"]:
            assert able.max_tensor_parallel_degree == 1 or not case.reads_model
            pytest.skip(f"{case.engine.name} splits no tensors")
        other = 1 if case.spec.tensor_parallel_degree > 1 else 2
        expected = [served.tokens(prompt, max_new_tokens=24) for prompt in case.prompts]
        options = {**case.spec.options, **case.parallel_options}
        with serve(case, tmp_path, tensor_parallel_degree=other, options=options) as split:
            assert [split.tokens(prompt, max_new_tokens=24) for prompt in case.prompts] == expected
            assert split.running.facts.notes != served.running.facts.notes, "the facts do not say what was split"

    def test_a_converted_model_is_kept(self, case: EngineCase, served: Served, tmp_path: Path) -> None:
        if not case.reads_model or case.engine.capabilities().features["fast_loading"] != "kept conversion":
            pytest.skip(f"{case.engine.name} converts nothing")
        kept = {path: path.stat().st_mtime_ns for path in cache_root().rglob("*") if path.is_file()}
        with serve(case, tmp_path) as again:
            assert again.ask(case.prompts[0], max_new_tokens=2).status_code == 200
            assert Path(again.running.facts.converted_dir).is_relative_to(cache_root())
        assert kept == {path: path.stat().st_mtime_ns for path in cache_root().rglob("*") if path.is_file()}

    def test_fp32_gives_the_tokens_of_the_reference(
        self, case: EngineCase, served: Served, reference: list[list[int]]
    ) -> None:
        if not case.reads_model:
            pytest.skip(f"{case.engine.name} reads no model folder")
        assert [served.tokens(prompt, max_new_tokens=24) for prompt in case.prompts] == reference

    def test_one_input_and_a_list(self, case: EngineCase, served: Served) -> None:
        one = served.ask(case.prompts[0], max_new_tokens=4)
        many = served.ask(list(case.prompts[:3]), max_new_tokens=4)
        assert (one.status_code, many.status_code) == (200, 200)
        assert isinstance(one.json()["generated_text"], str)
        assert len(many.json()) == 3
        assert many.json()[0] == one.json()
        assert int(one.headers["x-dyno-tokens"]) <= 4

    def test_a_request_s_tokens_do_not_depend_on_its_batch_mates(self, case: EngineCase, served: Served) -> None:
        alone = [served.tokens(prompt, max_new_tokens=24) for prompt in case.prompts]
        together = served.ask(list(case.prompts), max_new_tokens=24, details=True).json()
        assert [answer["details"]["tokens"] for answer in together] == alone
        with ThreadPoolExecutor(len(case.prompts)) as pool:
            at_once = list(pool.map(lambda prompt: served.tokens(prompt, max_new_tokens=24), case.prompts))
        assert at_once == alone

    def test_requests_of_one_batch_keep_their_own_limits(self, case: EngineCase, served: Served) -> None:
        limits = (1, 3, 6, 2)
        with ThreadPoolExecutor(len(limits)) as pool:
            ids = list(pool.map(lambda n: served.tokens(case.prompts[0], max_new_tokens=n, min_new_tokens=n), limits))
        assert [len(each) for each in ids] == list(limits)

    @pytest.mark.parametrize("limit", [1, 5])
    def test_max_new_tokens_is_honoured(self, case: EngineCase, served: Served, limit: int) -> None:
        whole = served.tokens(case.prompts[0], max_new_tokens=24)
        response = served.ask(case.prompts[0], max_new_tokens=limit, details=True)
        details = response.json()["details"]
        assert details["tokens"] == whole[:limit]
        assert details["generated_tokens"] == len(details["tokens"])
        assert details["finish_reason"] == ("length" if len(whole) > limit else "eos")

    def test_min_new_tokens_is_honoured(self, case: EngineCase, served: Served) -> None:
        ids = served.tokens(case.prompts[0], max_new_tokens=30, min_new_tokens=20)
        assert 20 <= len(ids) <= 30

    def test_log_probabilities_are_one_per_token_and_not_positive(self, case: EngineCase, served: Served) -> None:
        details = served.ask(case.prompts[0], max_new_tokens=6, details=True, return_logprobs=True).json()["details"]
        assert len(details["logprobs"]) == len(details["tokens"])
        assert all(logprob <= 1e-6 for logprob in details["logprobs"])
        assert details["nonfinite"] is False

    def test_beams_are_served_or_refused_with_a_reason(self, case: EngineCase, served: Served) -> None:
        response = served.ask(case.prompts[0], max_new_tokens=6, num_beams=3, details=True)
        assert response.status_code in (200, 400), response.text
        assert response.status_code == 200 or "num_beams" in response.json()["message"]

    def test_sampling_with_a_seed_repeats_or_is_refused_with_a_reason(self, case: EngineCase, served: Served) -> None:
        parameters = {"do_sample": True, "temperature": 1.5, "top_k": 0, "seed": 7, "max_new_tokens": 8}
        first, second = (served.ask(case.prompts[0], **parameters) for _ in range(2))
        assert first.status_code in (200, 400), first.text
        assert first.json() == second.json()

    def test_a_stream_joins_to_the_whole_answer(self, case: EngineCase, served: Served) -> None:
        whole = served.ask(case.prompts[0], max_new_tokens=12, details=True).json()
        body = {"inputs": case.prompts[0], "parameters": {"max_new_tokens": 12}, "stream": True}
        answer = served.post(body)
        if not case.engine.capabilities().can_stream:
            assert answer.status_code == 400
            assert "stream" in answer.text
            return
        *tokens, last = [json.loads(line) for line in answer.text.splitlines()]
        assert [token["token"]["id"] for token in tokens] == whole["details"]["tokens"]
        assert last["generated_text"] == whole["generated_text"]
        assert "".join(token["token"]["text"] for token in tokens).strip() == whole["generated_text"].strip()

    @pytest.mark.parametrize(
        "body", [{}, {"inputs": []}, {"inputs": 3}, {"inputs": "a", "parameters": {"max_new_tokens": 0}}, [1]]
    )
    def test_bad_input_is_400_and_the_engine_lives_on(self, case: EngineCase, served: Served, body: object) -> None:
        response = served.post(body)
        assert response.status_code == 400
        assert response.json()["message"]
        assert served.ask(case.prompts[0], max_new_tokens=2).status_code == 200

    def test_the_effective_dtype_of_another_dtype_is_recorded(self, case: EngineCase, tmp_path: Path) -> None:
        effective = case.engine.capabilities().effective_dtypes
        others = [dtype for dtype in ("int8", "bf16", "fp16") if dtype in effective]
        if not others:
            pytest.skip(f"{case.engine.name} accepts fp32 only")
        with serve(case, tmp_path, dtype=others[0]) as served:
            assert effective[others[0]] in (served.running.facts.effective_dtype, "unknown")
            assert served.ask(case.prompts[0], max_new_tokens=4).status_code == 200

    def test_a_dtype_it_cannot_do_is_refused_with_the_reason(self, case: EngineCase, tmp_path: Path) -> None:
        assert "int3" in str(refusal(case, tmp_path, dtype="int3"))
        capabilities = case.engine.capabilities()
        for dtype in set(DTYPES) - set(capabilities.effective_dtypes):
            assert capabilities.reasons[dtype] in str(refusal(case, tmp_path, dtype=dtype))

    def test_a_degree_or_an_option_it_does_not_know_is_refused(self, case: EngineCase, tmp_path: Path) -> None:
        too_many = case.engine.capabilities().max_tensor_parallel_degree + 1
        assert str(too_many) in str(refusal(case, tmp_path, tensor_parallel_degree=too_many))
        options = {**case.spec.options, "no_such_option": 1}
        assert "no_such_option" in str(refusal(case, tmp_path, options=options))

    @pytest.mark.parametrize("damage", ["truncated weights", "missing config", "missing tokenizer", "no folder"])
    def test_a_damaged_model_is_one_sentence(self, case: EngineCase, tmp_path: Path, damage: str) -> None:
        if not case.reads_model:
            pytest.skip(f"{case.engine.name} reads no model folder")
        folder = tmp_path / "model"
        shutil.copytree(case.spec.model_dir, folder)
        weights = folder / "model.safetensors"
        if damage == "truncated weights":
            weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
        elif damage == "missing config":
            (folder / "config.json").unlink()
        elif damage == "missing tokenizer":
            (folder / "tokenizer.json").unlink()
        else:
            folder = tmp_path / "nowhere"
        with pytest.raises(ModelInvalid) as caught:
            start(case, tmp_path / "logs", model_dir=folder)
        message = str(caught.value)
        assert "\n" not in message
        assert str(folder) in message


def refusal(case: EngineCase, workdir: Path, **changes: Any) -> EngineError:
    """The SpecInvalid that launching the changed spec raises."""
    with pytest.raises(SpecInvalid) as caught:
        start(case, workdir, **changes)
    return caught.value


def start(case: EngineCase, workdir: Path, **changes: Any) -> None:
    """Launch and stop at once."""
    with case.engine.launch(replace(case.spec, **changes), workdir, READY_TIMEOUT_S):
        pass
