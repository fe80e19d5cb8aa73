"""CTranslate2 on decoder-only models: the ids and scores of Hugging Face's `generate`, or a refusal by name."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.adapters.ctranslate2 import FAMILIES as SERVED
from engines.adapters.ctranslate2 import capabilities
from engines.adapters.ctranslate2_steps import FURTHER_ROW, TOKEN_READ, length_groups
from engines.api import GenerateParams, GenerateRequest
from engines.errors import ModelInvalid, RequestInvalid, SpecInvalid
from engines.models.checkpoint.kind import kind_of, model_kind
from engines.models.conversion import ctranslate2_cache
from engines.models.tokenizer import Tokenizer
from engines.spec_check import why_not_model
from tests.engines.adapters.decoder_zoo import Zoo, opened_zoo
from tests.engines.adapters.test_decoders import Yardstick, requests
from tests.engines.models.decoder_folders import FAMILIES, write_decoder
from tests.engines.models.t5_folders import ROOT, answers, tokens

pytestmark = pytest.mark.heavy

BUNDLED = ROOT / "scenarios" / "assets" / "llama-bench"
TEXTS = (
    "spell: 7\n", "spell: 407\n", "label: the soup was cold.\n", "date: 3 March 2021\n", "spell: 1,306,346\n",
    "rewrite: I won't weigh the printer w/o info.\n", "label: the parcel arrived late and broken\n",
    "label: the breakfast is not next to the bank, although the soup was never clearly sloppy.\n",
)  # fmt: skip
"""Prompts of 6 to 21 tokens, none as long as another."""
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "opt-350m's": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    "sequential gpt_neox": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 24}),
    "plain phi3": ("phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}),
    "linear qwen2": ("qwen2", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}}),
    "gemma with another base": ("gemma", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "unwindowed mistral": ("mistral", {"sliding_window": None}),
    "mistral": ("mistral", {"sliding_window": 48}),
    "gemma3_text": ("gemma3_text", {"sliding_window": 48}),
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    with opened_zoo("ctranslate2", ctranslate2_cache, VARIANTS, tmp_path_factory.mktemp("zoo")) as zoo:
        yield zoo


def fitting(batch: list[GenerateRequest], folder: Path) -> list[GenerateRequest]:
    """The requests, prompts and limits cut so that they stay within the window."""
    limit = min((1000, *model_kind(folder).bounds.values()))
    found = []
    for request in batch:
        new = min(request.params.max_new_tokens, limit // 2)
        params = replace(request.params, max_new_tokens=new, min_new_tokens=min(request.params.min_new_tokens, new))
        found.append(GenerateRequest(input_ids=request.input_ids[: limit - new], params=params))
    return found


@pytest.mark.parametrize("name", [*dict.fromkeys((*SERVED, *VARIANTS))])
def test_greedy_answers_are_hugging_faces(zoo: Zoo, name: str) -> None:
    folder = zoo.folder(name)
    batch = requests(3, max_new_tokens=24)
    if name in SERVED:
        batch += requests(2, repetition_penalty=1.3, max_new_tokens=24)[1:]
        batch += requests(3, no_repeat_ngram_size=2, min_new_tokens=24, max_new_tokens=24)[:1]
    batch = fitting(batch, folder)
    yardstick = Yardstick(folder)
    found = answers(zoo.backend(folder), batch)
    for request, events in zip(batch, found, strict=True):
        yardstick.check(request, events)
    assert max(len(set(tokens(events))) for events in found) > 8, "answers that repeat one token prove little"


def test_the_bundled_decoder_gives_hugging_faces_answers_in_fp32_and_right_ones_in_int8(zoo: Zoo) -> None:
    tokenizer, yardstick = Tokenizer.load(BUNDLED), Yardstick(BUNDLED)
    texts = ("label: the parcel arrived late and broken\n", "date: 3 March 2021\n", "spell: 407\n")
    batch = [
        GenerateRequest(
            input_ids=tuple(tokenizer.encode(text)), params=GenerateParams(max_new_tokens=24, return_logprobs=True)
        )
        for text in texts
    ]
    found = answers(zoo.backend(BUNDLED), batch)
    for request, events in zip(batch, found, strict=True):
        yardstick.check(request, events)
    assert {events[-1].finish for events in found} == {"eos"}
    small = answers(zoo.backend(BUNDLED, "int8"), batch)
    assert [tokens(events) for events in small] == [tokens(events) for events in found]
    assert any(one.logprob != other.logprob for one, other in zip(small[0], found[0], strict=True))


def test_one_of_several_end_ids_ends_an_answer_and_a_minimum_keeps_them_away(zoo: Zoo, tmp_path: Path) -> None:
    plain = requests(4, max_new_tokens=24)[1:]
    first = answers(zoo.backend(zoo.folder("qwen3")), plain)
    ends = sorted({tokens(first[0])[4], tokens(first[1])[9]})
    folder = write_decoder(tmp_path / "ends", "qwen3")
    for name in ("config.json", "generation_config.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {"eos_token_id": [2, *ends]}))
    yardstick, backend = Yardstick(folder), zoo.backend(folder)
    more = requests(4, max_new_tokens=24, min_new_tokens=12, repetition_penalty=1.1)
    within = [replace(one, input_ids=(one.input_ids[0], ends[0], *one.input_ids)) for one in plain]
    batch = [*plain, *requests(4, max_new_tokens=24, min_new_tokens=12), *more, *within]
    found = answers(backend, batch)
    for request, events in zip(batch, found, strict=True):
        yardstick.check(request, events)
    assert {tokens(events)[-1] for events in found if events[-1].finish == "eos"} >= set(ends)


def _counted(backend: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of rows at each call of the library."""
    runs: list[int] = []
    run = backend._run
    monkeypatch.setattr(
        backend, "_run", lambda group, *rest, **more: (runs.append(len(group)), run(group, *rest, **more))[1]
    )
    return runs


@pytest.mark.parametrize(
    ("limits", "rows"),
    [
        (((3, 60),) * 8, [8]),
        (((40, 60),) * 8, [8]),
        (((40, 60), (3, 60)) * 4, [4, 4]),
        (tuple((each, each) for each in range(20, 36, 2)), [8]),
    ],
    ids=["below the answers", "beyond them", "two minima", "exactly so many"],
)
def test_answers_with_a_minimum_share_a_batch_and_are_those_of_one_by_one(
    limits: tuple[tuple[int, int], ...], rows: list[int], zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, backend = Tokenizer.load(BUNDLED), zoo.backend(BUNDLED)
    batch = [
        GenerateRequest(
            input_ids=tuple(tokenizer.encode(text)),
            params=GenerateParams(min_new_tokens=least, max_new_tokens=most, return_logprobs=True),
        )
        for text, (least, most) in zip(TEXTS, limits, strict=True)
    ]
    assert len({len(one.input_ids) for one in batch}) == len(batch)
    alone = [answers(backend, [one])[0] for one in batch]
    runs = _counted(backend, monkeypatch)

    together = answers(backend, batch)

    assert runs == rows
    assert [tokens(events) for events in together] == [tokens(events) for events in alone]
    for one, other in zip(together, alone, strict=True):
        assert [event.finish for event in one] == [event.finish for event in other]
        assert [event.logprob for event in one] == pytest.approx([event.logprob for event in other], abs=1e-3)


def test_answers_with_a_minimum_are_hugging_faces_whatever_else_is_in_the_batch(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = requests(4, max_new_tokens=24)
    first = [tokens(events) for events in answers(zoo.backend(zoo.folder("qwen3")), free)]
    ends = sorted({token for row in first for token in row[::3]})
    folder = write_decoder(tmp_path / "ends", "qwen3")
    for name in ("config.json", "generation_config.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {"eos_token_id": [2, *ends]}))
    yardstick, backend = Yardstick(folder), zoo.backend(folder)
    runs = _counted(backend, monkeypatch)
    for least in (24, 12, 6):
        batch = [
            replace(one, input_ids=(ends[0], *one.input_ids))
            for one in requests(4, max_new_tokens=24, min_new_tokens=least)
        ]
        assert len({len(one.input_ids) for one in batch}) == 4
        runs.clear()
        for request, events in zip(batch, answers(backend, batch), strict=True):
            yardstick.check(request, events)
            assert len(tokens(events)) >= least
        assert runs == [2, 2]
    penalized = requests(4, max_new_tokens=24, min_new_tokens=24, repetition_penalty=1.2)
    exact = [
        replace(one, params=replace(one.params, max_new_tokens=new, min_new_tokens=new))
        for one, new in zip(requests(4), (24, 3, 17, 9), strict=True)
    ]
    for batch in (penalized[::-1], exact):
        for request, events in zip(batch, answers(backend, batch), strict=True):
            yardstick.check(request, events)


def test_the_prompts_first_token_is_penalized_like_the_others(zoo: Zoo) -> None:
    """CTranslate2 leaves it out: the answer is stopped where it could matter and goes on by passes over the whole."""
    folder = zoo.folder("gptj")
    params = GenerateParams(max_new_tokens=24, return_logprobs=True)
    free = tokens(answers(zoo.backend(folder), [GenerateRequest(input_ids=(305, 17), params=params)])[0])
    yardstick = Yardstick(folder)
    for asked in ({"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 2}, {"repetition_penalty": 0.8}):
        batch = [
            GenerateRequest(input_ids=(token, *free[:place]), params=replace(params, **asked))
            for place, token in enumerate(free[:6])
        ]
        for request, events in zip(batch, answers(zoo.backend(folder), batch), strict=True):
            yardstick.check(request, events)


def test_an_answer_streams_and_does_not_depend_on_its_batch(zoo: Zoo) -> None:
    backend = zoo.backend(zoo.folder("llama"))
    batch = requests(5, max_new_tokens=40)
    steps = list(backend.generate(batch[:1]))
    assert len(steps) > 1
    alone = [tokens(answers(backend, [request])[0]) for request in batch]
    assert [tokens(events) for events in answers(backend, batch)] == alone


def test_beams_score_at_least_as_well_as_greedy_and_refuse_penalties(zoo: Zoo) -> None:
    folder = zoo.folder("gpt2")
    backend = zoo.backend(folder)
    beams = answers(backend, requests(3, num_beams=3, max_new_tokens=12, length_penalty=0.0))
    greedy = answers(backend, requests(3, max_new_tokens=12))
    for found, plain in zip(beams, greedy, strict=True):
        assert sum(event.logprob or 0 for event in found) >= sum(event.logprob or 0 for event in plain) - 1e-3
    with pytest.raises(RequestInvalid, match="choose one of them"):
        backend.generate(requests(1, num_beams=2, repetition_penalty=1.2))


def test_sampling_varies_and_from_one_candidate_it_is_greedy(zoo: Zoo) -> None:
    backend = zoo.backend(zoo.folder("llama"))
    drawn = requests(1, max_new_tokens=12, do_sample=True) * 4
    drawn += requests(1, max_new_tokens=12, do_sample=True, repetition_penalty=1.1) * 3
    assert len({tuple(tokens(events)) for events in answers(backend, drawn)}) > 3
    greedy, single = requests(1, max_new_tokens=12), requests(1, max_new_tokens=12, do_sample=True, top_k=1)
    assert tokens(answers(backend, single)[0]) == tokens(answers(backend, greedy)[0])


def test_a_request_beyond_the_window_or_the_context_is_refused_with_the_numbers(zoo: Zoo) -> None:
    for name, length, words in (
        ("gpt2", 129, "make 129, the model's context holds 128"),
        ("mistral", 50, "beyond 48, the model's window, CTranslate2 would give other answers"),
        ("phi3", 50, "beyond 40, the model's window"),
    ):
        request = GenerateRequest(input_ids=(7,) * (length - 9), params=GenerateParams(max_new_tokens=9))
        with pytest.raises(RequestInvalid, match=words):
            zoo.backend(zoo.folder(name)).generate([request])


def test_what_it_computes_otherwise_is_refused_from_config_json(tmp_path: Path) -> None:
    able = capabilities()

    def why_not(model_type: str, **changes: Any) -> str:
        sizes = {
            "vocab_size": 512,
            "max_position_embeddings": 128,
            "n_positions": 128,
            "n_embd": 64,
            "n_head": 4,
            "n_layer": 2,
        }
        config = {"model_type": model_type, **sizes, **FAMILIES[model_type], **changes}
        return why_not_model("ctranslate2", kind_of(config, tmp_path), able)

    assert {name for name in FAMILIES if why_not(name)} == {"gemma2"}
    assert "soft caps" in why_not("gemma2")
    assert "soft caps" in why_not("gemma3_text", final_logit_softcapping=30.0)
    assert "dynamic" in why_not("llama", rope_scaling={"type": "dynamic", "factor": 2.0}, rope_parameters=None)


def test_a_model_with_an_odd_part_is_one_sentence(zoo: Zoo, tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "odd", "gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(ModelInvalid, match="does not compute gpt2 with scale_attn_by_inverse_layer_idx True"):
        zoo.backend(folder)
    with pytest.raises(SpecInvalid, match="soft caps"):
        zoo.backend(zoo.folder("gemma2"))


@pytest.mark.parametrize(
    ("lengths", "new", "groups"),
    [
        ([10, 10, 10, 10], 16, [[0, 1, 2, 3]]),
        ([150, 11, 155, 13], 16, [[1, 3], [0, 2]]),
        ([500, 10], 32, [[1], [0]]),
        ([40, 60], 256, [[0, 1]]),
        ([9], 4, [[0]]),
    ],
)
def test_prompts_of_similar_lengths_are_decoded_together(lengths: list[int], new: int, groups: list[list[int]]) -> None:
    assert length_groups(lengths, [new] * len(lengths)) == groups


def test_no_grouping_takes_less_time_than_the_chosen_one() -> None:
    rng = random.Random(2)
    for _ in range(30):
        lengths = [rng.randint(1, 200) for _ in range(6)]
        chosen = sum(_time(lengths, group, 16) for group in length_groups(lengths, [16] * 6))
        order = sorted(range(6), key=lambda place: lengths[place])
        for cuts in itertools.product((False, True), repeat=5):
            edges = [0, *(place + 1 for place, cut in enumerate(cuts) if cut), 6]
            other = [order[begin:end] for begin, end in itertools.pairwise(edges)]
            assert chosen <= sum(_time(lengths, group, 16) for group in other) + 1e-9


def _time(lengths: list[int], group: list[int], new: int) -> float:
    shortest, longest = min(lengths[place] for place in group), max(lengths[place] for place in group)
    steps = longest - shortest + new
    return steps * (1 + FURTHER_ROW * (len(group) - 1)) + TOKEN_READ * shortest * len(group)
