"""Answers of the torch engines for every decoder-only family: the ids and scores of Hugging Face's `generate`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.adapters import deepspeed
from engines.api import EngineSpec, GenerateParams, GenerateRequest, TokenEvent
from engines.errors import RequestInvalid, SpecInvalid
from engines.models.checkpoint.kind import model_kind
from engines.models.hugging_face import default_attention, load_model
from engines.models.tokenizer import Tokenizer
from engines.spec_check import why_not_model
from tests.engines.models.decoder_folders import FAMILIES, POSITIONS, VOCAB, write_decoder
from tests.engines.models.t5_folders import answers, loaded, tokens

pytestmark = pytest.mark.heavy

TOLERANCE = 1e-3
Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("decoders")

    def folder(model_type: str) -> Path:
        path = root / model_type
        return path if path.is_dir() else write_decoder(path, model_type)

    return folder


class Yardstick:
    """Hugging Face's `generate` in fp32, one prompt at a time: ids and the model's own log-probabilities."""

    def __init__(self, folder: Path) -> None:
        self.model = load_model(folder, "fp32", default_attention(folder))

    def check(self, request: GenerateRequest, events: Sequence[TokenEvent]) -> None:
        params = request.params
        asked = {"min_new_tokens": params.min_new_tokens} if params.min_new_tokens else {}
        found = self.model.generate(
            input_ids=torch.tensor([request.input_ids]),
            attention_mask=torch.ones((1, len(request.input_ids)), dtype=torch.long),
            max_new_tokens=params.max_new_tokens,
            num_beams=params.num_beams,
            repetition_penalty=params.repetition_penalty,
            no_repeat_ngram_size=params.no_repeat_ngram_size,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **asked,
        )
        expected = found.sequences[0, len(request.input_ids) :].tolist()
        assert tokens(events) == expected
        if params.num_beams == 1:
            rows = [logits[0].float().log_softmax(-1) for logits in found.logits]
            for event, row in zip(events, rows, strict=True):
                assert event.logprob is not None
                assert event.token_id is not None
                assert abs(event.logprob - float(row[event.token_id])) < TOLERANCE


def requests(count: int = 6, **params: Any) -> list[GenerateRequest]:
    """Prompts of 1 to 60 tokens, each with its own limit; some answers go past the windows and longrope's switch."""
    rng = random.Random(1)
    found = []
    for number in range(count):
        length = 1 if number == 0 else rng.randrange(2, 60)
        fields = {"max_new_tokens": rng.choice((1, 9, 40)), "return_logprobs": True, **params}
        ids = tuple(rng.randrange(6, VOCAB) for _ in range(length))
        found.append(GenerateRequest(input_ids=ids, params=GenerateParams(**fields)))
    return found


@pytest.mark.parametrize("model_type", FAMILIES)
def test_greedy_answers_are_hugging_faces(model_type: str, decoder: Folders) -> None:
    folder = decoder(model_type)
    backend, yardstick = loaded("transformers", folder), Yardstick(folder)
    plain = requests()
    kept_going = requests(3, min_new_tokens=20, max_new_tokens=30)
    penalized = requests(3, repetition_penalty=1.3, no_repeat_ngram_size=2, max_new_tokens=30)
    batch = [*plain, *kept_going, *penalized]
    found = answers(backend, batch)
    for request, events in zip(batch, found, strict=True):
        yardstick.check(request, events)
    assert max(len(set(tokens(events))) for events in found) > 8, "answers that repeat one token prove little"
    backend.close()


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "phi3", "gemma2"])
def test_beams_are_hugging_faces(model_type: str, decoder: Folders) -> None:
    folder = decoder(model_type)
    backend, yardstick = loaded("transformers", folder), Yardstick(folder)
    batch = requests(3, num_beams=3, max_new_tokens=12)
    batch += requests(2, num_beams=2, repetition_penalty=1.5, no_repeat_ngram_size=2, max_new_tokens=12)
    for request, events in zip(batch, answers(backend, batch), strict=True):
        yardstick.check(request, events)
        assert all(event.logprob is not None for event in events)
    backend.close()


@pytest.mark.parametrize("model_type", ["opt", "bloom", "llama", "mistral", "gemma3_text"])
def test_a_static_cache_changes_no_answer(model_type: str, decoder: Folders) -> None:
    folder = decoder(model_type)
    options = {"cache": "static", "cache_source_tokens": 64, "cache_new_tokens": 48}
    backend, yardstick = loaded("transformers", folder, batch_size=8, options=options), Yardstick(folder)
    for batch in (requests(6), requests(3, max_new_tokens=20)):
        for request, events in zip(batch, answers(backend, batch), strict=True):
            yardstick.check(request, events)
    backend.close()


def test_an_end_id_of_several_ends_an_answer(decoder: Folders) -> None:
    folder = decoder("llama")
    backend = loaded("transformers", folder)
    batch = requests(24, max_new_tokens=60, repetition_penalty=1.4)
    ends = {tokens(events)[-1] for events in answers(backend, batch) if events[-1].finish == "eos"}
    assert ends <= {2, 5}
    backend.close()


def test_a_prompt_and_answer_beyond_the_context_are_refused_with_the_numbers(decoder: Folders) -> None:
    backend = loaded("transformers", decoder("gpt2"))
    request = GenerateRequest(input_ids=(7,) * 100, params=GenerateParams(max_new_tokens=29))
    with pytest.raises(RequestInvalid, match=f"make 129, the model's context holds {POSITIONS}"):
        list(backend.generate([request]))
    backend.close()


def test_a_row_that_has_ended_may_grow_beyond_the_context_until_its_batch_ends(decoder: Folders) -> None:
    backend = loaded("transformers", decoder("gpt2"))
    sizes = ((118, 10), (2, 126), (2, 126))
    batch = [
        GenerateRequest(input_ids=(7,) * length, params=GenerateParams(max_new_tokens=new, min_new_tokens=new))
        for length, new in sizes
    ]
    assert [len(events) for events in answers(backend, batch)] == [new for _, new in sizes]
    backend.close()


def test_gpt2_in_int8_is_refused_because_nothing_would_be_quantized(decoder: Folders) -> None:
    with pytest.raises(SpecInvalid, match="Conv1D"):
        loaded("transformers", decoder("gpt2"), dtype="int8")


def test_deepspeed_refuses_by_name_and_where_the_degree_divides_no_key_value_heads(decoder: Folders) -> None:
    spec = EngineSpec(engine="deepspeed", model_dir=decoder("gemma"), tensor_parallel_degree=2)
    with pytest.raises(SpecInvalid, match="does not divide the 1 key-value heads"):
        deepspeed.check_heads(spec)
    able = deepspeed.capabilities()
    refused = {name for name in FAMILIES if why_not_model("deepspeed", model_kind(decoder(name)), able)}
    assert refused == set(FAMILIES) - {"llama", "opt", "gpt_neox", "qwen3", "gptj"}
    assert "ALiBi" in why_not_model("deepspeed", model_kind(decoder("bloom")), able)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gptj"])
def test_accelerate_gives_the_same(model_type: str, decoder: Folders) -> None:
    folder = decoder(model_type)
    backend, yardstick = loaded("accelerate", folder), Yardstick(folder)
    batch = requests(4)
    for request, events in zip(batch, answers(backend, batch), strict=True):
        yardstick.check(request, events)
    backend.close()


def test_an_engine_for_encoder_decoders_refuses_a_decoder(decoder: Folders) -> None:
    with pytest.raises(SpecInvalid, match="t5 serves seq2seq models; the folder holds llama"):
        loaded("t5", decoder("llama"))


def test_a_decoders_tokenizer_adds_what_its_file_adds_and_never_eos(decoder: Folders) -> None:
    text = "a text, with  blanks \u4f60\u597d"
    for model_type, begins in (("llama", True), ("qwen2", False)):
        tokenizer = Tokenizer.load(decoder(model_type))
        ids = tokenizer.encode(text)
        assert (ids[0] == 1) is begins
        assert 2 not in ids
        assert tokenizer.decode(ids) == text
