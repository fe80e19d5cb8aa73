"""Slots, events, cancelling, stop sequences, limits: what a server built on the engine relies on."""

from __future__ import annotations

import pytest

from engines.errors import ModelInvalid, SpecInvalid, Unavailable
from engines.t5 import Params
from tests.engines.t5 import checkpoints as ck

pytestmark = pytest.mark.heavy


@pytest.fixture
def flan(family, load):
    model, folder = family("flan")
    return model, lambda **options: load(folder, **options)


def drain(engine):
    """Tokens and finish per handle, stepping one token at a time."""
    tokens, finishes = {}, {}
    while engine.load() != (0, 0):
        for event in engine.step():
            if event.token is not None:
                tokens.setdefault(event.handle, []).append(event.token)
            if event.finish:
                finishes[event.handle] = event.finish
    return tokens, finishes


def test_a_request_does_not_depend_on_its_batch_mates_bitwise(flan):
    model, load = flan
    prompts = ck.prompts(12, model.config.vocab_size, seed=1)
    options = {"max_new_tokens": 12, "return_logprobs": True}
    alone, together = load(max_slots=1), load(max_slots=12)

    def logprobs(engine, batch):
        handles = [engine.submit(p, Params(**options)) for p in batch]
        seen = {h: [] for h in handles}
        while engine.load() != (0, 0):
            for event in engine.step():
                seen[event.handle].append((event.token, event.logprob))
        return [seen[h] for h in handles]

    assert logprobs(together, prompts) == [logprobs(alone, [p])[0] for p in prompts]


@pytest.mark.parametrize("dtype", ["bf16", "int8", "w8a8", "int4"])
def test_batch_mates_do_not_matter_in_any_dtype(dtype, flan):
    model, load = flan
    prompts = ck.prompts(9, model.config.vocab_size, seed=2)
    engine = load(max_slots=9, dtype=dtype)
    assert engine.generate(prompts, max_new_tokens=16) == [engine.generate([p], max_new_tokens=16)[0] for p in prompts]


def test_several_steps_end_when_a_request_does(flan):
    model, load = flan
    prompts = ck.prompts(2, model.config.vocab_size, seed=6)
    engine = load(max_slots=2)
    short, long = (
        engine.submit(prompt, Params(max_new_tokens=count, ignore_eos=True))
        for prompt, count in zip(prompts, (3, 5), strict=True)
    )
    first, second = engine.step(100), engine.step(100)
    assert [event.handle for event in first] == [short, long] * 3
    assert [event.finish for event in first if event.finish] == ["length"]
    assert [event.handle for event in second] == [long] * 2


def test_requests_join_and_leave_while_others_run(flan):
    model, load = flan
    prompts = ck.prompts(6, model.config.vocab_size, seed=3)
    engine = load(max_slots=2)
    expected = engine.generate(prompts, max_new_tokens=10, min_new_tokens=10)
    params = Params(max_new_tokens=10, min_new_tokens=10)
    handles, tokens, late = [engine.submit(prompts[0], params)], {}, 1
    while engine.load() != (0, 0):
        for event in engine.step():
            tokens.setdefault(event.handle, []).append(event.token)
        if late < len(prompts) and len(tokens[handles[0]]) % 2:
            handles.append(engine.submit(prompts[late], params))
            late += 1
        assert engine.load()[1] <= 2
    assert [tokens[h] for h in handles] == expected[: len(handles)]
    assert len(handles) > 3


def test_static_admission_waits_for_the_whole_batch(flan):
    _, load = flan
    engine = load(max_slots=2, admission="static")
    lengths = (2, 6, 2)
    for length in lengths:
        engine.submit([5, 1], Params(max_new_tokens=length, ignore_eos=True))
    running = []
    while engine.load() != (0, 0):
        engine.step()
        running.append(engine.load())
    assert running == [(1, 2), (1, 1), (1, 1), (1, 1), (1, 1), (1, 0), (0, 1), (0, 0)]


def test_events_stream_one_token_per_request_and_step(flan):
    _, load = flan
    engine = load()
    handles = [engine.submit([4, 1], Params(max_new_tokens=5, ignore_eos=True)) for _ in range(2)]
    for step in range(5):
        events = engine.step()
        assert [e.handle for e in events] == handles
        assert {e.finish for e in events} == {"length" if step == 4 else None}
    assert engine.step() == []


def test_cancelling_frees_the_slot_for_the_next_request(flan):
    _, load = flan
    engine = load(max_slots=1)
    first = engine.submit([4, 1], Params(max_new_tokens=50, ignore_eos=True))
    second = engine.submit([6, 1], Params(max_new_tokens=2, ignore_eos=True))
    engine.step()
    engine.cancel(first)
    tokens, finishes = drain(engine)
    assert finishes == {first: "cancelled", second: "length"}
    assert len(tokens[second]) == 2
    with pytest.raises(ValueError, match=f"no request with handle {first}"):
        engine.cancel(first)


def test_a_waiting_request_can_be_cancelled(flan):
    _, load = flan
    engine = load(max_slots=1)
    running = engine.submit([4, 1], Params(max_new_tokens=2, ignore_eos=True))
    waiting = engine.submit([4, 1], Params(max_new_tokens=2))
    engine.cancel(waiting)
    assert drain(engine)[1] == {waiting: "cancelled", running: "length"}


def test_generation_ends_with_eos_included(flan):
    model, load = flan
    prompts = ck.prompts(60, model.config.vocab_size, seed=4)
    outs = load().generate(prompts, max_new_tokens=60)
    ended = [o for o in outs if len(o) < 60]
    assert ended, "no prompt of this checkpoint reaches eos: choose another seed"
    assert all(o[-1] == 1 and 1 not in o[:-1] for o in ended)


def test_a_stop_sequence_ends_the_output_and_is_part_of_it(flan):
    model, load = flan
    engine = load()
    prompt = ck.prompts(1, model.config.vocab_size, seed=5)[0]
    full = engine.generate([prompt], max_new_tokens=20, ignore_eos=True)[0]
    stop = full[6:9]
    first = next(i for i in range(len(full)) if full[i : i + 3] == stop)
    got = engine.generate([prompt], max_new_tokens=20, ignore_eos=True, stop_sequences=[[9999 % 250, 3], stop])
    assert got == [full[: first + 3]]


def test_min_new_tokens_holds_eos_back(flan):
    model, load = flan
    prompts = ck.prompts(60, model.config.vocab_size, seed=4)
    outs = load().generate(prompts, max_new_tokens=60, min_new_tokens=60)
    assert all(len(o) == 60 and 1 not in o[:-1] for o in outs)


BAD_INPUTS = [
    ([], "input_ids\\[0\\].*empty"),
    ([5, 250, 1], "input_ids\\[0\\].*index 1.*0 to 249.*250"),
    ([5, -1], "index 1"),
    ([5, "x"], "index 1: expected an int, got 'x'"),
    ([5, 2.5], "index 1"),
    ([2**40], "index 0"),
    (None, "expected a list of ids"),
    ([3] * 65, "at most 64 ids, got 65"),
]


@pytest.mark.parametrize(("ids", "message"), BAD_INPUTS)
def test_a_bad_input_is_a_value_error_and_the_engine_goes_on(ids, message, flan):
    _, load = flan
    engine = load(max_source=64)
    with pytest.raises(ValueError, match=message):
        engine.generate([ids], max_new_tokens=2)
    with pytest.raises(ValueError, match="input_ids"):
        engine.generate([[3, 1], ids], max_new_tokens=2)
    assert engine.load() == (0, 0)
    assert len(engine.generate([[3, 1]], max_new_tokens=2, ignore_eos=True)[0]) == 2


BAD_PARAMS = [
    {"max_new_tokens": 0},
    {"max_new_tokens": 2.0},
    {"max_new_tokens": 10**9},
    {"max_new_tokens": 10**12},
    {"min_new_tokens": -1},
    {"min_new_tokens": 70},
    {"num_beams": 0},
    {"num_beams": 65},
    {"num_beams": 2, "num_return_sequences": 3},
    {"num_beams": 2, "do_sample": True},
    {"early_stopping": "sometimes"},
    {"temperature": 0.0},
    {"temperature": float("nan")},
    {"top_p": 1.5},
    {"top_k": -1},
    {"repetition_penalty": 0.0},
    {"no_repeat_ngram_size": -2},
    {"bad_words_ids": [[]]},
    {"bad_words_ids": [[999]]},
    {"stop_sequences": [["a"]]},
    {"seed": -1},
    {"colour": "red"},
]


@pytest.mark.parametrize("params", BAD_PARAMS, ids=str)
def test_a_bad_parameter_is_a_value_error_that_names_it(params, flan):
    _, load = flan
    engine = load()
    with pytest.raises(ValueError, match=next(reversed(params)) if "do_sample" not in params else "do_sample"):
        engine.generate([[3, 1]], **params)
    assert engine.load() == (0, 0)


def test_a_closed_engine_refuses_and_closes_again(flan):
    _, load = flan
    engine = load()
    engine.close()
    engine.close()
    with pytest.raises(Unavailable, match="closed"):
        engine.generate([[3, 1]])


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"dtype": "fp64"}, "dtype"),
        ({"device": "tpu"}, "device"),
        ({"tensor_parallel_degree": 2}, "tensor_parallel_degree"),
        ({"admission": "later"}, "admission"),
        ({"threads": 0}, "threads"),
        ({"max_slots": 0}, "max_slots"),
    ],
)
def test_load_refuses_what_it_cannot_do_and_names_it(options, field, flan):
    _, load = flan  # flan has three heads: two ranks cannot share them
    with pytest.raises(SpecInvalid, match=field):
        load(**options)


def test_a_folder_without_weights_is_refused(tmp_path, load):
    with pytest.raises(ModelInvalid, match=r"config\.json"):
        load(tmp_path)


def test_an_encoder_alone_loads_and_encodes(family, load, tmp_path):
    import json

    from safetensors.torch import load_file, save_file

    model, folder = family("flan")
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if k.startswith(("encoder", "shared"))}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict()), encoding="utf-8")
    engine, whole = load(tmp_path), load(folder)
    assert (engine.encode([[5, 6, 1]])[0] == whole.encode([[5, 6, 1]])[0]).all()
    with pytest.raises(ValueError, match="encoder only"):
        engine.generate([[3, 1]])
