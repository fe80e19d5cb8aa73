"""ONNX Runtime on decoder-only models: the ids and scores of Hugging Face's `generate` for all 14 families."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.adapters.onnxruntime import FAMILIES as SERVED
from engines.adapters.onnxruntime import capabilities
from engines.api import GenerateParams, GenerateRequest
from engines.errors import RequestInvalid
from engines.models.checkpoint.kind import model_kind
from engines.models.conversion import onnx_cache
from engines.models.tokenizer import Tokenizer
from engines.spec_check import why_not_model
from tests.engines.adapters.decoder_zoo import Zoo, opened_zoo
from tests.engines.adapters.test_decoders import Yardstick, requests
from tests.engines.models.decoder_folders import FAMILIES, write_decoder
from tests.engines.models.t5_folders import ROOT, answers, tokens

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.heavy

BUNDLED = ROOT / "scenarios" / "assets" / "llama-bench"
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "opt-350m's": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    "odd gpt2": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_inner": 96}),
    "yarn llama": ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}}),
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    with opened_zoo("onnxruntime", onnx_cache, VARIANTS, tmp_path_factory.mktemp("zoo")) as zoo:
        yield zoo


@pytest.mark.parametrize("name", [*SERVED, *VARIANTS])
def test_greedy_answers_are_hugging_faces(zoo: Zoo, name: str) -> None:
    """Prompts and answers go beyond the windows; those of longrope stay below its switch."""
    folder = zoo.folder(name)
    limit = model_kind(folder).rope_switch or 1000
    batch = [
        *requests(3, max_new_tokens=24),
        *requests(2, no_repeat_ngram_size=2, repetition_penalty=1.2, max_new_tokens=24)[1:],
    ]
    batch = [replace(one, input_ids=one.input_ids[: limit - 24]) for one in batch]
    yardstick = Yardstick(folder)
    found = answers(zoo.backend(folder), batch)
    for request, events in zip(batch, found, strict=True):
        yardstick.check(request, events)
    assert max(len(set(tokens(events))) for events in found) > 8, "answers that repeat one token prove little"


def test_the_bundled_decoder_gives_hugging_faces_answers_in_fp32_and_right_ones_in_int8(zoo: Zoo) -> None:
    tokenizer, yardstick = Tokenizer.load(BUNDLED), Yardstick(BUNDLED)
    params = GenerateParams(max_new_tokens=24, return_logprobs=True)
    batch = [
        GenerateRequest(input_ids=tuple(tokenizer.encode(text)), params=params)
        for text in ("date: 3 March 2021\n", "spell: 407\n")
    ]
    found = answers(zoo.backend(BUNDLED), batch)
    for request, events in zip(batch, found, strict=True):
        yardstick.check(request, events)
    small = answers(zoo.backend(BUNDLED, "int8"), batch)
    assert [tokens(events) for events in small] == [tokens(events) for events in found]
    assert any(one.logprob != other.logprob for one, other in zip(small[0], found[0], strict=True))


def test_beams_penalties_and_several_end_ids_are_hugging_faces(zoo: Zoo, tmp_path: Path) -> None:
    plain = requests(4, max_new_tokens=24)[1:]
    first = answers(zoo.backend(zoo.folder("qwen3")), plain)
    ends = sorted({tokens(first[0])[4], tokens(first[1])[9]})
    folder = write_decoder(tmp_path / "ends", "qwen3")
    for name in ("config.json", "generation_config.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {"eos_token_id": [2, *ends]}))
    yardstick = Yardstick(folder)
    batch = [*plain, *requests(3, max_new_tokens=24, min_new_tokens=12, no_repeat_ngram_size=2)]
    batch += requests(3, num_beams=3, max_new_tokens=12, repetition_penalty=1.2)
    found = answers(zoo.backend(folder), batch)
    for request, events in zip(batch, found, strict=True):
        yardstick.check(request, events)
    assert {tokens(events)[-1] for events in found if events[-1].finish == "eos"} >= set(ends)


def test_an_answer_streams_and_does_not_depend_on_its_batch(zoo: Zoo) -> None:
    backend = zoo.backend(zoo.folder("gemma3_text"))
    batch = requests(5, max_new_tokens=20)
    assert len(list(backend.generate(batch[:1]))) > 1
    alone = [tokens(answers(backend, [request])[0]) for request in batch]
    assert [tokens(events) for events in answers(backend, batch)] == alone


def test_a_row_that_has_ended_may_grow_beyond_the_context_until_its_batch_ends(zoo: Zoo) -> None:
    sizes = ((118, 10), (2, 126), (2, 126))
    batch = [
        GenerateRequest(input_ids=(7,) * length, params=GenerateParams(max_new_tokens=new, min_new_tokens=new))
        for length, new in sizes
    ]
    assert [len(events) for events in answers(zoo.backend(zoo.folder("gpt2")), batch)] == [new for _, new in sizes]


def test_a_request_beyond_the_context_or_longropes_switch_is_refused_with_the_numbers(zoo: Zoo) -> None:
    for name, length, words in (
        ("gpt2", 129, "make 129, the model's context holds 128"),
        ("phi3", 50, "beyond 48, where the model's rotary positions change"),
    ):
        request = GenerateRequest(input_ids=(7,) * (length - 9), params=GenerateParams(max_new_tokens=9))
        with pytest.raises(RequestInvalid, match=words):
            zoo.backend(zoo.folder(name)).generate([request])


def test_every_family_is_served_and_dynamic_scaling_is_refused_from_config_json(zoo: Zoo) -> None:
    assert set(SERVED) == set(FAMILIES)
    kind = model_kind(zoo.folder("llama"))
    assert why_not_model("onnxruntime", kind, capabilities()) == ""
    assert "dynamic scaling" in why_not_model("onnxruntime", replace(kind, rope_type="dynamic"), capabilities())
