"""Every in-process adapter against Hugging Face: tokens, scores, batches, limits. Scores are the check that counts:
a wrong output scaling leaves greedy tokens as they are."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from engines.adapters import ctranslate2
from engines.api import Backend, EngineSpec, GenerateParams, GenerateRequest
from engines.errors import RequestInvalid, SpecInvalid
from engines.launching import load_backend, load_engine
from engines.models import hugging_face
from engines.models.conversion import ctranslate2_cache
from engines.setting import OptionValue
from tests.engines.models.t5_folders import (
    BUNDLED,
    TINY_FLAN,
    TINY_V1,
    Yardstick,
    answers,
    loaded,
    requests,
    tokens,
    write_model,
    write_umt5,
)

pytestmark = pytest.mark.heavy

ENGINES = ("transformers", "ctranslate2", "onnxruntime")
MODELS = ("tiny-flan", "tiny-v1", "tiny-umt5", "bundled")


class Bench:
    """Loaded backends and yardsticks, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folders = {
            "tiny-flan": write_model(folder / "flan", TINY_FLAN),
            "tiny-v1": write_model(folder / "v1", TINY_V1),
            "tiny-umt5": write_umt5(folder / "umt5"),
            "bundled": Path(shutil.copytree(BUNDLED, folder / "bundled")),
        }
        self.backend = cache(self._backend)
        self.yardstick = cache(lambda model: Yardstick(self.folders[model]))
        self.opened: list[Backend] = []

    def _backend(self, engine: str, model: str, dtype: str = "fp32") -> Backend:
        self.opened.append(loaded(engine, self.folders[model], dtype))
        return self.opened[-1]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("models"))
    yield bench
    for backend in bench.opened:
        backend.close()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ENGINES)
def test_fp32_tokens_and_logprobs_are_hugging_faces(bench: Bench, engine: str, model: str) -> None:
    yardstick = bench.yardstick(model)
    batch = requests(yardstick.vocab_size)

    for request, events in zip(batch, answers(bench.backend(engine, model), batch), strict=True):
        yardstick.check(request, events)


@pytest.mark.parametrize("model", ["tiny-flan", "bundled"])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_fp32_answer_does_not_depend_on_its_batch(bench: Bench, engine: str, model: str) -> None:
    backend = bench.backend(engine, model)
    batch = requests(bench.yardstick(model).vocab_size, seed=1)

    together = answers(backend, batch)
    alone = [answers(backend, [request])[0] for request in batch]

    assert [tokens(events) for events in together] == [tokens(events) for events in alone]
    for left, right in zip(together, alone, strict=True):
        assert [event.finish for event in left] == [event.finish for event in right]


def test_unscaled_ctranslate2_fails_the_score_check(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: CTranslate2's converter as it comes, asking `tie_word_embeddings`. Its tokens stay right."""
    yardstick = bench.yardstick("tiny-flan")
    request = requests(yardstick.vocab_size, 1, max_new_tokens=12)[0]
    monkeypatch.setattr(hugging_face, "scales_outputs", lambda model: model.config.tie_word_embeddings)
    monkeypatch.setattr(ctranslate2, "converted", lambda folder, *_: tmp_path)
    ctranslate2_cache.convert(str(bench.folders["tiny-flan"]), "float32", str(tmp_path))

    backend = loaded("ctranslate2", bench.folders["tiny-flan"])
    events = answers(backend, [request])[0]
    backend.close()

    assert tokens(events) == tokens(answers(bench.backend("transformers", "tiny-flan"), [request])[0])
    with pytest.raises(AssertionError, match="logprob of token 0"):
        yardstick.check(request, events)


@pytest.mark.parametrize("engine", ENGINES)
def test_steps_are_streamed_and_each_row_keeps_its_own_limits(bench: Bench, engine: str) -> None:
    ids = (5, 6, 7, 1)
    limits = (3, 9, 5)
    batch = [
        GenerateRequest(input_ids=ids, params=GenerateParams(max_new_tokens=limit, min_new_tokens=limit))
        for limit in limits
    ]

    steps = list(bench.backend(engine, "tiny-flan").generate(batch))

    if engine != "ctranslate2":  # it decodes rows with different minimum lengths in turn
        assert len(steps) == max(limits)
    counts = [sum(event.index == row for step in steps for event in step) for row in range(3)]
    assert counts == list(limits)
    assert all(event.logprob is None for step in steps for event in step)


@pytest.mark.parametrize("engine", ENGINES)
def test_min_new_tokens_keeps_the_end_away(bench: Bench, engine: str) -> None:
    backend = bench.backend(engine, "bundled")
    batch = requests(bench.yardstick("bundled").vocab_size, 4, max_new_tokens=40)
    plain = answers(backend, batch)
    ended = next(row for row, events in enumerate(plain) if events[-1].finish == "eos")
    natural = len(plain[ended])

    longer = GenerateRequest(
        input_ids=batch[ended].input_ids, params=GenerateParams(max_new_tokens=60, min_new_tokens=natural + 4)
    )
    answer = tokens(answers(backend, [longer])[0])

    assert len(answer) >= natural + 4
    assert answer[: natural - 1] == tokens(plain[ended])[:-1]
    assert 1 not in answer[:-1]


def sampled(backend: Backend, **fields: object) -> list[int]:
    params = GenerateParams(max_new_tokens=12, min_new_tokens=12, do_sample=True, **fields)  # type: ignore[arg-type]
    return tokens(answers(backend, [GenerateRequest(input_ids=(5, 6, 7, 8, 1), params=params)])[0])


@pytest.mark.parametrize("engine", ENGINES)
def test_sampling_varies_and_from_one_candidate_it_is_greedy(bench: Bench, engine: str) -> None:
    backend = bench.backend(engine, "tiny-flan")
    greedy = GenerateRequest(input_ids=(5, 6, 7, 8, 1), params=GenerateParams(max_new_tokens=12, min_new_tokens=12))

    assert len({tuple(sampled(backend)) for _ in range(4)}) > 1
    assert sampled(backend, top_k=1) == tokens(answers(backend, [greedy])[0])


@pytest.mark.parametrize("engine", ["transformers", "onnxruntime"])
def test_a_seed_repeats_its_sample(bench: Bench, engine: str) -> None:
    backend = bench.backend(engine, "tiny-flan")

    assert sampled(backend, seed=7) == sampled(backend, seed=7)
    assert len({tuple(sampled(backend, seed=seed)) for seed in range(4)}) > 1


def test_ctranslate2_refuses_a_seed_it_could_not_keep(bench: Bench) -> None:
    with pytest.raises(RequestInvalid, match="leave the seed out"):
        sampled(bench.backend("ctranslate2", "tiny-flan"), seed=7)


def test_ctranslate2_says_how_its_beams_end_and_refuses_what_it_cannot(bench: Bench) -> None:
    backend = load_backend("ctranslate2")
    facts = backend.load(EngineSpec(engine="ctranslate2", model_dir=bench.folders["tiny-flan"], threads=1))
    batch = requests(bench.yardstick("tiny-flan").vocab_size, 1, num_beams=2, early_stopping="never")
    with pytest.raises(RequestInvalid, match="early_stopping 'never' is not possible"):
        answers(backend, batch)
    backend.close()
    assert any("early_stopping=true" in note for note in facts.notes)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_may_mix_greedy_and_sampled_requests(bench: Bench, engine: str) -> None:
    backend = bench.backend(engine, "tiny-flan")
    greedy = GenerateRequest(input_ids=(9, 8, 7, 1), params=GenerateParams(max_new_tokens=8))
    drawn = GenerateRequest(input_ids=(9, 8, 7, 1), params=GenerateParams(max_new_tokens=8, do_sample=True))

    mixed = answers(backend, [drawn, greedy, drawn])

    assert tokens(mixed[1]) == tokens(answers(backend, [greedy])[0])


@pytest.mark.parametrize("model", ["tiny-flan", "bundled"])
@pytest.mark.parametrize(
    "params",
    [
        {"num_beams": 2},
        {"num_beams": 4, "length_penalty": 0.0},
        {"num_beams": 4, "length_penalty": 2.0, "repetition_penalty": 1.4, "min_new_tokens": 3},
        {"num_beams": 3, "length_penalty": -1.0, "no_repeat_ngram_size": 2},
    ],
)
def test_onnxruntime_beams_are_hugging_faces(bench: Bench, model: str, params: dict[str, object]) -> None:
    batch = requests(bench.yardstick(model).vocab_size, 3, seed=4, max_new_tokens=12, **params)
    other_width = requests(bench.yardstick(model).vocab_size, 1, seed=5, max_new_tokens=5, num_beams=5)
    batch += other_width

    ours = answers(bench.backend("onnxruntime", model), batch)
    theirs = answers(bench.backend("transformers", model), batch)

    assert [tokens(events) for events in ours] == [tokens(events) for events in theirs]
    for left, right in zip(ours, theirs, strict=True):
        assert [event.logprob for event in left] == pytest.approx([event.logprob for event in right], abs=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_beams_score_at_least_as_well_as_greedy(bench: Bench, engine: str) -> None:
    yardstick, backend = bench.yardstick("bundled"), bench.backend(engine, "bundled")
    beams = requests(yardstick.vocab_size, 3, max_new_tokens=16, num_beams=4, length_penalty=0.0)
    greedy = [
        GenerateRequest(input_ids=request.input_ids, params=GenerateParams(max_new_tokens=16, return_logprobs=True))
        for request in beams
    ]

    for request, found, plain in zip(beams, answers(backend, beams), answers(backend, greedy), strict=True):
        rows = yardstick.logprobs(request, tokens(found))
        for position, event in enumerate(found):
            assert event.logprob == pytest.approx(float(rows[position][event.token_id]), abs=1e-3)
        assert sum(event.logprob or 0 for event in found) >= sum(event.logprob or 0 for event in plain) - 1e-3


REDUCED = (
    *((engine, "int8") for engine in ENGINES),
    ("onnxruntime", "int4"),
    ("transformers", "bf16"),
    ("transformers", "fp16"),
)


@pytest.mark.parametrize(("engine", "dtype"), REDUCED)
def test_reduced_dtypes_stay_near_the_fp32_scores(bench: Bench, engine: str, dtype: str) -> None:
    """Teacher-forced on its own answer: on a trained model a reduced dtype moves the mean log-probability little."""
    yardstick = bench.yardstick("bundled")
    batch = requests(yardstick.vocab_size, 4, max_new_tokens=16)

    for request, events in zip(batch, answers(bench.backend(engine, "bundled", dtype), batch), strict=True):
        rows = yardstick.logprobs(request, tokens(events))
        drifts = [
            abs((event.logprob or 0) - float(row[event.token_id])) for event, row in zip(events, rows, strict=True)
        ]
        assert sum(drifts) / len(drifts) < 0.5
        assert all(event.logprob is not None and math.isfinite(event.logprob) for event in events)


@pytest.mark.parametrize("engine", ENGINES)
def test_bad_requests_are_refused_before_anything_runs(bench: Bench, engine: str) -> None:
    backend = bench.backend(engine, "tiny-flan")
    bad = (
        GenerateRequest(input_ids=(), params=GenerateParams()),
        GenerateRequest(input_ids=(5, TINY_FLAN.vocab_size), params=GenerateParams()),
        GenerateRequest(input_ids=(5, 1), params=GenerateParams(max_new_tokens=0)),
        GenerateRequest(input_ids=(5, 1), params=GenerateParams(do_sample=True, temperature=0.0)),
        GenerateRequest(input_ids=(5, 1), params=GenerateParams(do_sample=True, num_beams=2)),
    )

    for request in bad:
        with pytest.raises(RequestInvalid, match=r"expected|choose|tokenizer"):
            backend.generate([request])


@pytest.mark.parametrize("engine", ENGINES)
def test_an_abandoned_answer_leaves_the_backend_usable(bench: Bench, engine: str) -> None:
    backend = bench.backend(engine, "tiny-flan")
    request = GenerateRequest(input_ids=(5, 6, 1), params=GenerateParams(max_new_tokens=50, min_new_tokens=50))

    stream = iter(backend.generate([request]))
    next(stream)
    stream.close()  # type: ignore[attr-defined]

    assert len(answers(backend, [request])[0]) == 50


@pytest.mark.parametrize("engine", ENGINES)
def test_a_spec_it_cannot_do_is_refused_with_the_reason(engine: str, bench: Bench) -> None:
    folder = bench.folders["tiny-flan"]

    lacking = "w8a8" if engine == "onnxruntime" else "int4"  # which it has by MatMulNBits
    for fields in ({"dtype": lacking}, {"tensor_parallel_degree": 2}, {"device": "cuda"}, {"options": {"nonsense": 1}}):
        with pytest.raises(SpecInvalid, match=engine):
            load_backend(engine).load(EngineSpec(engine=engine, model_dir=folder, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ENGINES)
def test_probe_names_the_extra_to_install(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_engine(engine).probe().is_available

    monkeypatch.setattr("engines.environments.packages.find_spec", lambda name: None)
    availability = load_engine(engine).probe()

    assert not availability.is_available
    assert f"pip install 'dynamometer[{engine}]'" in availability.reason


def test_eager_and_sdpa_attention_agree(bench: Bench) -> None:
    batch = requests(TINY_FLAN.vocab_size, 3, max_new_tokens=10)
    eager = loaded("transformers", bench.folders["tiny-flan"], options={"attn": "eager"})

    assert [tokens(events) for events in answers(eager, batch)] == [
        tokens(events) for events in answers(bench.backend("transformers", "tiny-flan"), batch)
    ]
    eager.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
@pytest.mark.parametrize("how", [{"cache": "static"}, {"compile": True}])
def test_the_static_step_gives_hugging_faces_scores(bench: Bench, how: dict[str, OptionValue]) -> None:
    options = {**how, "cache_source_tokens": 24, "cache_new_tokens": 16}
    backend = loaded("transformers", bench.folders["tiny-flan"], batch_size=3, options=options)
    yardstick = bench.yardstick("tiny-flan")

    batches = [requests(TINY_FLAN.vocab_size, count, seed=count, max_new_tokens=12) for count in (1, 3, 5)]
    for batch in batches:  # one that fits, one that may not (long sources), one that does not (5 rows)
        for request, events in zip(batch, answers(backend, batch), strict=True):
            yardstick.check(request, events)
    backend.close()


def test_compiling_with_growing_caches_is_refused(bench: Bench) -> None:
    with pytest.raises(SpecInvalid, match="compile with cache 'dynamic' refused"):
        loaded("transformers", bench.folders["tiny-flan"], options={"compile": True, "cache": "dynamic"})


@pytest.mark.parametrize("device_map", ["auto", "balanced", "sequential"])
def test_layers_on_disk_give_hugging_faces_scores_and_the_facts_show_the_split(bench: Bench, device_map: str) -> None:
    backend = load_backend("accelerate")
    options = {"device_map": device_map, "max_cpu_memory_mib": 6}
    facts = backend.load(
        EngineSpec(engine="accelerate", model_dir=bench.folders["bundled"], threads=1, options=options)
    )
    yardstick = bench.yardstick("bundled")

    (split,) = [note for note in facts.notes if note.startswith("hf_device_map ")]
    assert set(json.loads(split.removeprefix("hf_device_map ")).values()) == {"cpu", "disk"}
    assert any(note.startswith("weights: disk ") and ", cpu " in note for note in facts.notes)
    batch = requests(yardstick.vocab_size, 3, max_new_tokens=12)
    for request, events in zip(batch, answers(backend, batch), strict=True):
        yardstick.check(request, events)
    backend.close()


def test_a_transformers_without_sdpa_for_t5_is_served_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 4.57, run by hand in an environment of its own: 8 of 8 answers as under 5.23."""
    from transformers import T5ForConditionalGeneration

    assert hugging_face.default_attention(BUNDLED) == "sdpa"
    monkeypatch.setattr(T5ForConditionalGeneration, "_supports_sdpa", False)
    assert hugging_face.default_attention(BUNDLED) == "eager"
