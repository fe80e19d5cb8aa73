"""The fake engine's laws are what they claim, and its answers and failures are the programmed ones."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from pathlib import Path

import pytest

from engines.adapters import fake
from engines.adapters.fake import FakeBackend, WordTokenizer
from engines.adapters.fake_latency import Bimodal, Constant, Law, Lognormal, Stall, law_of, stall_of
from engines.api import EngineSpec, GenerateParams, GenerateRequest
from engines.errors import SpecInvalid
from engines.setting import OptionValue

LAWS: list[Law] = [
    Constant(service_ms=4.0),
    Lognormal(service_ms=10.0, sigma=0.5),
    Bimodal(service_ms=2.0, slow_ms=50.0, slow_frac=0.1),
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_samples_follow_the_stated_quantiles_and_mean(law: Law) -> None:
    rng = random.Random(1)
    samples = sorted(law.sample_ms(rng) for _ in range(20_000))
    for q in (0.1, 0.5, 0.85, 0.99):
        below = sum(sample <= law.quantile_ms(q) + 1e-9 for sample in samples) / len(samples)
        assert below >= q - 0.01
        assert sum(sample < law.quantile_ms(q) - 1e-9 for sample in samples) / len(samples) <= q + 0.01
    assert math.isclose(sum(samples) / len(samples), law.mean_ms(), rel_tol=0.03)


def test_a_stall_adds_the_whole_freeze_to_work_under_way_and_the_rest_to_work_that_comes_later() -> None:
    stall = Stall(after_s=1.0, stall_ms=500.0)
    assert stall.end_s(0.0, 0.5) == 0.5
    assert stall.end_s(0.9, 1.1) == pytest.approx(1.6)
    assert stall.end_s(1.25, 1.3) == pytest.approx(1.55)
    assert stall.end_s(1.5, 1.6) == pytest.approx(1.6)


def test_a_repeated_stall_comes_again() -> None:
    stall = Stall(after_s=1.0, stall_ms=100.0, every_s=2.0)
    assert stall.end_s(2.95, 3.05) == pytest.approx(3.15)
    assert stall.end_s(3.2, 3.3) == pytest.approx(3.3)
    assert stall.end_s(0.5, 3.5) == pytest.approx(3.7)


@pytest.mark.parametrize(
    "options", [{"law": "uniform"}, {"service_ms": -1}, {"service_ms": "fast"}, {"service_ms": True}]
)
def test_an_impossible_law_is_refused(options: dict[str, OptionValue]) -> None:
    with pytest.raises(SpecInvalid, match="expected"):
        law_of(options)


def test_only_the_stall_law_stalls() -> None:
    assert stall_of({"law": "constant", "stall_ms": 5}) is None
    assert stall_of({"law": "stall", "stall_ms": 5}) == Stall(after_s=1.0, stall_ms=5.0)


def loaded(**options: OptionValue) -> FakeBackend:
    backend = FakeBackend()
    backend.load(EngineSpec(engine="fake", model_dir=Path(), options={"service_ms": 0, **options}))
    return backend


def generate(backend: FakeBackend, *texts: str, **params: object) -> list[str]:
    request_params = GenerateParams(**params)  # type: ignore[arg-type]
    batch = [GenerateRequest(input_ids=backend.tokenizer.encode(text), params=request_params) for text in texts]
    ids: list[list[int]] = [[] for _ in batch]
    for events in backend.generate(batch):
        for event in events:
            assert event.token_id is not None
            ids[event.index].append(event.token_id)
    return [backend.tokenizer.decode(answer) for answer in ids]


def test_echo_answers_and_token_limits() -> None:
    backend = loaded()
    assert generate(backend, "a b c", "d") == ["a b c", "d"]
    assert generate(backend, "a b c", max_new_tokens=2) == ["a b"]
    assert generate(backend, "a", min_new_tokens=3) == ["a more more"]


def test_answers_from_a_prompts_file(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"id": "1", "task": "t", "prompt": "two  plus two", "reference": "four"}) + "\n")
    assert generate(loaded(answers=str(path)), "two plus two", "else") == ["four", "else"]


def test_wrong_answers_hit_the_stated_fraction_of_prompts_and_always_the_same() -> None:
    texts = [f"prompt {n}" for n in range(400)]
    first = generate(loaded(wrong_answers_frac=0.25), *texts)
    assert first == generate(loaded(wrong_answers_frac=0.25), *texts)
    assert 70 <= sum(answer.startswith("wrong ") for answer in first) <= 130


def test_errors_hit_the_stated_fraction_of_batches() -> None:
    backend = loaded(error_frac=0.5)
    failed = 0
    for _ in range(200):
        try:
            generate(backend, "x")
        except RuntimeError:
            failed += 1
    assert 70 <= failed <= 130


class HandClock:
    """In place of `time` in the fake engine: a sleep takes no time and is remembered."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s


def service_times_s(clock: HandClock, **options: OptionValue) -> list[float]:
    """What each of five batches took, from a fresh load."""
    backend, ends = loaded(**options), [clock.now_s]
    for _ in range(5):
        generate(backend, "x")
        ends.append(clock.now_s)
    return [round(end - begin, 9) for begin, end in pairwise(ends)]


def test_two_loads_with_one_seed_take_the_same_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = HandClock()
    monkeypatch.setattr(fake, "time", clock)
    first = service_times_s(clock, law="lognormal", service_ms=20, seed=3)
    assert first == service_times_s(clock, law="lognormal", service_ms=20, seed=3)
    assert first != service_times_s(clock, law="lognormal", service_ms=20, seed=4)
    assert len(set(first)) == 5
    assert service_times_s(clock, law="constant", service_ms=20, seed=3) == [0.02] * 5


def test_rolling_requests_join_and_leave_at_token_boundaries() -> None:
    backend = loaded(slots=2)
    ids = {text: backend.tokenizer.encode(text) for text in ("a b", "c", "d e f")}
    slots = {
        backend.admit(GenerateRequest(input_ids=ids[text], params=GenerateParams())): text for text in ("a b", "c")
    }
    assert backend.admit(GenerateRequest(input_ids=ids["d e f"], params=GenerateParams())) is None
    seen: dict[str, list[int]] = {"a b": [], "c": []}
    steps = 0
    while events := backend.step():
        steps += 1
        for event in events:
            assert event.token_id is not None
            seen[slots[event.index]].append(event.token_id)
    assert steps == 3
    assert {text: tuple(answer) for text, answer in seen.items()} == {"a b": ids["a b"], "c": ids["c"]}
    assert backend.step() == []


def test_programmed_load_failures() -> None:
    with pytest.raises(MemoryError):
        loaded(oom_on_load=True)
    with pytest.raises(SpecInvalid, match="unknown option 'servise_ms'"):
        loaded(servise_ms=1)
    with pytest.raises(SpecInvalid, match="not a readable prompts file"):
        loaded(answers="/no/such/file")


def test_word_tokenizer_gives_one_word_the_same_id_in_every_instance() -> None:
    first, second = WordTokenizer(), WordTokenizer()
    assert first.encode(" a  b ") == second.encode("a b")
    assert first.decode(second.encode("a b")) == "a b"
    assert first.decode(second.encode("unseen")) == "<unk>"
