"""OpenVINO's answers for decoder-only models, in whole batches and rolling: the ids and scores of Hugging Face."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engines.adapters.openvino import FAMILIES, OpenVinoBackend, capabilities
from engines.api import EngineSpec, GenerateRequest, TokenEvent
from engines.cache_folder import cache_root
from engines.errors import ModelInvalid, RequestInvalid, SpecInvalid
from engines.models.checkpoint.kind import model_kind
from engines.models.conversion import openvino_cache
from engines.spec_check import why_not_model
from tests.engines.adapters.test_decoders import Yardstick, requests
from tests.engines.models import decoder_folders
from tests.engines.models.decoder_folders import POSITIONS, write_decoder
from tests.engines.models.t5_folders import answers, tokens

pytestmark = pytest.mark.heavy
pytest.importorskip("openvino_genai", reason="openvino-genai is not installed: pip install 'dynamometer[openvino]'")

Folders = Callable[[str], Path]
T5 = Path(__file__).parents[3] / "scenarios" / "assets" / "flan-t5-bench"
_PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Exports of this module, made in this process: a child would import torch for each."""
    from engines.models.conversion import openvino_export

    def call(module: str, function: str, arguments: Sequence[str]) -> None:
        getattr(openvino_export, function)(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(openvino_cache, "call_in_child", call)
        yield


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("decoders")

    def folder(model_type: str) -> Path:
        path = root / model_type
        changes = {"rope_parameters": _PLAIN_ROPE} if model_type == "phi3" else {}  # its longrope is refused
        return path if path.is_dir() else write_decoder(path, model_type, **changes)

    return folder


def loaded(folder: Path, rolling_batch: str = "disable", **fields: Any) -> OpenVinoBackend:
    backend = OpenVinoBackend()
    backend.load(EngineSpec(engine="openvino", model_dir=folder, threads=1, rolling_batch=rolling_batch, **fields))
    return backend


def rolled(backend: OpenVinoBackend, batch: Sequence[GenerateRequest]) -> list[list[TokenEvent]]:
    """Events by request: each is admitted as soon as a slot is free."""
    found: list[list[TokenEvent]] = [[] for _ in batch]
    waiting, places = list(enumerate(batch)), {}
    while waiting or places:
        while waiting and (index := backend.admit(waiting[0][1])) is not None:
            places[index] = waiting.pop(0)[0]
        for event in backend.step():
            found[places[event.index]].append(event)
            if event.finish is not None:
                del places[event.index]
    return found


@pytest.mark.parametrize("model_type", FAMILIES)
def test_greedy_answers_are_hugging_faces(model_type: str, decoder: Folders) -> None:
    folder = decoder(model_type)
    yardstick = Yardstick(folder)
    batch = [*requests(3, max_new_tokens=24), *requests(2, min_new_tokens=20, max_new_tokens=20)[1:]]
    batch += requests(2, repetition_penalty=1.3, max_new_tokens=16)[1:]
    for rolling_batch, answer, options in (("disable", answers, {}), ("auto", rolled, {"max_slots": 3})):
        backend = loaded(folder, rolling_batch, options=options)
        for request, events in zip(batch, answer(backend, batch), strict=True):
            yardstick.check(request, events)
        backend.close()


def test_beams_and_ngrams_are_hugging_faces_in_whole_batches_and_refused_in_rolling_ones(decoder: Folders) -> None:
    folder = decoder("llama")
    backend, yardstick = loaded(folder), Yardstick(folder)
    batch = [*requests(2, num_beams=3, max_new_tokens=10), *requests(2, no_repeat_ngram_size=2, max_new_tokens=20)]
    for request, events in zip(batch, answers(backend, batch), strict=True):
        yardstick.check(request, events)
    rolling = loaded(folder, "auto")
    for request, word in ((batch[0], "num_beams 3"), (batch[-1], "no_repeat_ngram_size 2")):
        with pytest.raises(RequestInvalid, match=f"{word} is not served from a rolling batch"):
            rolling.admit(request)
    too_long = requests(1, max_new_tokens=POSITIONS)[0]
    for ask in (rolling.admit, lambda request: list(backend.generate([request]))):
        with pytest.raises(RequestInvalid, match=f"the model's context holds {POSITIONS}"):
            ask(too_long)


def test_a_rolling_request_streams_ends_at_any_end_id_samples_by_its_seed_and_can_be_cancelled(
    decoder: Folders,
) -> None:
    backend = loaded(decoder("llama"), "auto", options={"max_slots": 2})
    long = requests(3, max_new_tokens=40, min_new_tokens=40)
    first, second = (backend.admit(request) for request in long[:2])
    assert first is not None
    assert backend.admit(long[2]) is None, "both slots are taken"
    assert [event.index for event in backend.step()] == [first, second], "a token each"
    backend.cancel(first)
    assert backend.admit(long[2]) is not None
    while backend.step():
        pass
    ended = rolled(backend, requests(24, max_new_tokens=60, repetition_penalty=1.4))
    ends = {tokens(events)[-1] for events in ended if events[-1].finish == "eos"}
    assert ends
    assert ends <= {decoder_folders.EOS, decoder_folders.STOP}
    sampled = {"do_sample": True, "temperature": 1.5, "top_k": 0, "max_new_tokens": 12}
    again = [[tokens(each) for each in rolled(backend, requests(3, **sampled, seed=7))] for _ in range(2)]
    free = [[tokens(each) for each in rolled(backend, requests(3, **sampled))] for _ in range(2)]
    assert again[0] == again[1]
    assert free[0] != free[1], "without a seed every request draws its own"


def test_weights_and_keys_and_values_are_as_small_as_named(decoder: Folders) -> None:
    pytest.importorskip("nncf", reason="nncf makes int8 and int4: it is in the engine's own environment")
    folder = decoder("llama")
    for dtype in ("int8", "int4"):
        loaded(folder, dtype=dtype).close()
    sizes = {
        dtype: next(cache_root().glob(f"openvino/*-decoder-{dtype}-*/*.bin")).stat().st_size
        for dtype in ("fp32", "int8", "int4")
    }
    assert sizes["int8"] < 0.35 * sizes["fp32"]
    assert sizes["int4"] < 0.75 * sizes["int8"]


@pytest.mark.parametrize("rolling_batch", ["disable", "auto"])
def test_what_is_kept_of_keys_and_values_is_named_and_changes_the_scores_a_little(
    rolling_batch: str, decoder: Folders
) -> None:
    folder, batch = decoder("gpt2"), requests(2, max_new_tokens=12, min_new_tokens=12)
    sums = {}
    for kv in ("f32", "f16", "u8"):
        backend = OpenVinoBackend()
        facts = backend.load(
            EngineSpec(
                engine="openvino", model_dir=folder, threads=1, rolling_batch=rolling_batch, options={"kv_cache": kv}
            )
        )
        assert facts.effective_dtype == f"fp32, {kv} KV"
        found = rolled(backend, batch) if rolling_batch == "auto" else answers(backend, batch)
        sums[kv] = sum(event.logprob or 0.0 for events in found for event in events[:4])
        backend.close()
    assert len(set(sums.values())) == 3
    assert max(sums.values()) - min(sums.values()) < 0.5
    with pytest.raises(SpecInvalid, match="kv_cache is 'bf16', expected one of f32, f16, u8"):
        loaded(folder, rolling_batch, options={"kv_cache": "bf16"})


def test_what_openvino_has_wrong_is_refused_from_the_config(tmp_path: Path) -> None:
    able = capabilities()
    refused = {
        name: why_not_model("openvino", model_kind(write_decoder(tmp_path / name, name)), able)
        for name in ("gemma2", "phi3")
    }
    assert "soft caps" in refused["gemma2"]
    assert "longrope" in refused["phi3"]


def test_t5_gets_neither_rolling_batch_nor_int4_and_a_decoder_no_option_of_t5(decoder: Folders) -> None:
    for folder, fields, word in (
        (T5, {"rolling_batch": "auto"}, "rolling_batch 'auto' refused: it is for decoder models"),
        (T5, {"options": {"kv_cache": "u8"}}, "options.kv_cache 'u8' refused: it is for decoder models"),
        (decoder("gpt2"), {"options": {"stateful": True}}, "options.stateful True refused: it is for seq2seq models"),
    ):
        with pytest.raises(SpecInvalid, match=word):
            OpenVinoBackend().load(EngineSpec(engine="openvino", model_dir=folder, **fields))


def test_an_export_is_kept_and_a_damaged_one_is_one_sentence(decoder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = openvino_cache.decoder_graph(decoder("gpt2"), "fp32", cache_root())
    monkeypatch.setattr(openvino_cache, "call_in_child", None)
    assert openvino_cache.decoder_graph(decoder("gpt2"), "fp32", cache_root()) == folder
    (folder / "openvino_model.bin").write_bytes(b"")
    for rolling_batch in ("disable", "auto"):
        with pytest.raises(ModelInvalid, match="delete") as caught:
            loaded(decoder("gpt2"), rolling_batch)
        assert "\n" not in str(caught.value)
    shutil.rmtree(folder)
