"""Limits are named where a programmed server has them, and nowhere else; the sentence has the numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest

from engines.metrics_page import Meaning
from harness.measure.doubts import client_verdict
from harness.measure.engine_metrics.bandwidth import with_weights_read
from harness.measure.engine_metrics.limits import limits_of, with_limits
from harness.measure.engine_metrics.scrapes import EngineMetrics, Scrape
from harness.measure.machine.memory_roof import MemoryRoof
from harness.records import LimitKind, NamedLimit, TrialSummary
from tests.harness.measure.engine_metrics.programmed_server import NS, STEP_S, Program, ProgrammedServer
from tests.harness.measure.records import closed_loop, request, use

WINDOW = (0, 10 * NS)
CASES, HEALTHY = 40, 40
SEED = 20_261_129
ROOF = MemoryRoof(read_bps=10e9, threads=2)
BESIDE: tuple[LimitKind, ...] = ("client", "memory_bandwidth")
"""What may hold a load back beside another limit."""


def _named(program: Program, chance: random.Random, client_s: float, roof_frac: float) -> set[LimitKind]:
    """`roof_frac` of the bandwidth is what reading the weights takes in each of the server's steps."""
    metrics, records, window = ProgrammedServer(program, chance).run()
    resources = use(window_s=program.duration_s, client_s=client_s)
    client = client_verdict(records, resources, is_open_loop=bool(program.rate_rps)) or ""
    summary = with_limits(TrialSummary(metrics={}), metrics, records, window, client)
    step_bytes = roof_frac * ROOF.read_bps * STEP_S
    summary = with_weights_read(summary, metrics, records, window, step_bytes, ROOF)
    return {limit.kind for limit in summary.limits or ()}


def _small_cache(chance: random.Random) -> tuple[Program, float]:
    """The cache holds 30 to 70 % of what the users' requests need at their ends; slots are enough."""
    users, prompt, answer = chance.randint(6, 24), chance.randint(20, 200), chance.randint(40, 150)
    most = prompt + 1.3 * answer
    held = max(1.5 * most, chance.uniform(0.3, 0.7) * users * (prompt + answer))
    return Program(slots=64, kv_tokens=int(held), prompt_tokens=prompt, answer_tokens=answer, users=users), 1.0


def _few_slots(chance: random.Random) -> tuple[Program, float]:
    """2.5 to 8 times as many users as slots, or a rate of 1.2 to 2 times what they can serve; the cache is ample."""
    slots, answer = chance.randint(1, 8), chance.randint(10, 80)
    program = Program(slots=slots, kv_tokens=100_000, answer_tokens=answer, users=int(slots * chance.uniform(2.5, 8)))
    if chance.random() < 0.4:
        rate = chance.uniform(1.2, 2.0) * slots / (answer * 0.02)
        program = Program(slots=slots, kv_tokens=100_000, answer_tokens=answer, rate_rps=rate)
    return program, 1.0


def _short_queue(chance: random.Random) -> tuple[Program, float]:
    """More users than slots and places in the queue, so that some are refused."""
    slots, queue = chance.randint(1, 6), chance.randint(1, 8)
    users = slots + queue + chance.randint(2, 10)
    return Program(slots=slots, kv_tokens=100_000, queue=queue, answer_tokens=chance.randint(10, 60), users=users), 1.0


def _starved_client(chance: random.Random) -> tuple[Program, float]:
    """The load process computes all the time, and the server has room."""
    slots = chance.randint(4, 16)
    return Program(slots=slots, kv_tokens=100_000, users=chance.randint(1, slots)), 20.0 * chance.uniform(0.93, 1.0)


def _heavy_weights(chance: random.Random) -> tuple[Program, float]:
    """As many users as slots; what makes a step long is reading the weights."""
    slots = chance.randint(1, 16)
    return Program(slots=slots, kv_tokens=100_000, answer_tokens=chance.randint(10, 100), users=slots), 1.0


def _healthy(chance: random.Random) -> tuple[Program, float]:
    """No more users than slots, or a rate of at most half of what they can serve; the cache is at most 80 % full."""
    slots, prompt, answer = chance.randint(1, 16), chance.randint(20, 200), chance.randint(10, 100)
    held = int(slots * (prompt + 1.3 * answer) / chance.uniform(0.3, 0.8))
    if chance.random() < 0.5:
        rate = chance.uniform(0.1, 0.5) * slots / (answer * 0.02)
        program = Program(slots=slots, kv_tokens=held, prompt_tokens=prompt, answer_tokens=answer, rate_rps=rate)
    else:
        users = chance.randint(1, slots)
        program = Program(slots=slots, kv_tokens=held, prompt_tokens=prompt, answer_tokens=answer, users=users)
    return program, 20.0 * chance.uniform(0.01, 0.3)


Planted = tuple[Callable[[random.Random], tuple[Program, float]], LimitKind]
PLANTED: tuple[Planted, ...] = (
    (_small_cache, "kv_cache"), (_few_slots, "queue"), (_short_queue, "queue"), (_starved_client, "client"),
    (_heavy_weights, "memory_bandwidth"),
)  # fmt: skip


def planted(seed: int) -> tuple[list[str], list[str]]:
    """What was named wrongly in CASES cases, a second limit beside the first in every fourth, and in HEALTHY runs."""
    chance = random.Random(seed)
    wrong, false = list[str](), list[str]()
    for number in range(CASES):
        plan, kind = PLANTED[number % len(PLANTED)]
        (program, client_s), wanted = plan(chance), {kind}
        if number % 4 == 1:
            wanted.add(chance.choice([each for each in BESIDE if each != kind]))
        client_s = 20.0 * chance.uniform(0.93, 1.0) if "client" in wanted else client_s
        roof_frac = chance.uniform(0.8, 1.0) if "memory_bandwidth" in wanted else chance.uniform(0.05, 0.5)
        if (found := _named(program, chance, client_s, roof_frac)) != wanted:
            wrong.append(f"{program}, roof {roof_frac:.2f}: planted {wanted}, named {found}")
    for _ in range(HEALTHY):
        program, client_s = _healthy(chance)
        if found := _named(program, chance, client_s, roof_frac := chance.uniform(0.05, 0.5)):
            false.append(f"{program}, roof {roof_frac:.2f}: named {found}")
    return wrong, false


def test_planted_limits_are_named_and_healthy_runs_are_left_alone() -> None:
    """40 cases, two limits in 10 of them; 40 healthy runs."""
    wrong, false = planted(SEED)
    assert len(wrong) <= 0.1 * CASES, wrong
    assert len(false) <= 0.05 * HEALTHY, false


def _metrics(*rows: Mapping[Meaning, float]) -> EngineMetrics:
    """One scrape a second."""
    return EngineMetrics(scrapes=tuple(
        Scrape(at_ns=second * NS, took_ns=1_000_000, values=values) for second, values in enumerate(rows)
    ))  # fmt: skip


def _only(found: tuple[NamedLimit, ...]) -> NamedLimit:
    (limit,) = found
    return limit


TEN = tuple(request(n, 1000.0 * n, 500.0) for n in range(11))
"""A request each second from 0 s to 10 s."""


def test_preemptions_name_the_cache_with_their_share() -> None:
    rows: list[Mapping[Meaning, float]] = [{"preemptions": 5.0 + n // 2, "kv_frac": 0.97} for n in range(11)]
    limit = _only(limits_of(_metrics(*rows), TEN, WINDOW))
    assert limit == NamedLimit(
        kind="kv_cache", sentence="KV cache full: 5 preemptions for 10 requests (50%); up to 97% of it was in use"
    )


def test_a_cache_that_makes_requests_wait_is_named_without_a_preemption_and_the_queue_is_not() -> None:
    rows: list[Mapping[Meaning, float]] = [
        {"preemptions": 0.0, "kv_frac": 0.95, "waiting": 6.0, "running": 2.0} for _ in range(11)
    ]
    limit = _only(limits_of(_metrics(*rows), TEN, WINDOW))
    assert limit.kind == "kv_cache"
    assert "in 11 of 11 scrapes requests waited while at least 90%" in limit.sentence


def test_a_queue_is_named_by_what_waits_and_runs() -> None:
    rows: list[Mapping[Meaning, float]] = [{"waiting": 7.0, "running": 1.0} for _ in range(11)]
    limit = _only(limits_of(_metrics(*rows), TEN, WINDOW))
    assert limit.kind == "queue"
    assert "in 11 of 11 scrapes, on average 7 waited and 1 ran, so waiting was 88% of their time" in limit.sentence


def test_a_queue_is_named_by_how_long_requests_waited_where_nobody_counts_them() -> None:
    rows: list[Mapping[Meaning, float]] = [{"queue_s": 0.4 * n, "queue_count": float(n)} for n in range(11)]
    limit = _only(limits_of(_metrics(*rows), TEN, WINDOW))
    assert limit.sentence == (
        "queue before the engine: 10 requests waited 0.4 s on average, 80% of the 0.5 s from send to answer"
    )
    half: list[Mapping[Meaning, float]] = [{"queue_s": 0.2 * n, "queue_count": float(n)} for n in range(11)]
    assert limits_of(_metrics(*half), TEN, WINDOW) == ()


def test_refused_requests_name_the_queue_without_any_metrics() -> None:
    records = tuple(request(n, n, 1.0, outcome="rejected" if n % 10 == 0 else "ok") for n in range(100))
    limit = _only(limits_of(EngineMetrics(unavailable="HTTP 404"), records, WINDOW))
    assert limit.sentence == "queue before the engine: 10 of 100 requests (10%) were refused"


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"waiting": 9.0, "running": 1.0}] * 4,  # too few to say how often
        [{"waiting": 9.0}] * 11,  # how many ran is not known
        [{"waiting": 9.0 * (n % 2), "running": 1.0} for n in range(11)],  # in half of them only
        [{"waiting": 1.0, "running": 8.0}] * 11,  # most of the time is spent running
        [{"kv_frac": 0.99, "running": 8.0, "waiting": 0.0, "preemptions": 2.0}] * 11,  # full, and nobody waits
    ],
)  # fmt: skip
def test_without_evidence_no_limit_is_named(rows: list[Mapping[Meaning, float]]) -> None:
    assert limits_of(_metrics(*rows), TEN, WINDOW) == ()


def _phases(share: float, running: float, seconds: int = 11) -> EngineMetrics:
    """A second of work in the engine each second, `share` of it for prompts."""
    return _metrics(
        *({"running": running, "prefill_s": share * n, "decode_s": (1 - share) * n} for n in range(seconds))
    )


def test_prompts_that_take_most_of_the_time_are_named() -> None:
    limit = _only(limits_of(_phases(0.8, running=2.0), TEN, WINDOW))
    assert limit == NamedLimit(
        kind="prefill",
        sentence="prefill bound: 80% of the 10 s that requests spent in the engine went into their prompts; something "
        "ran in 11 of 11 scrapes",
    )


def test_prompts_are_named_where_they_take_most_of_a_busy_engine_and_nowhere_else() -> None:
    chance, wrong = random.Random(SEED), []
    for number in range(80):
        is_wanted = number % 2 == 0
        share = chance.uniform(0.65, 0.98) if is_wanted else chance.uniform(0.02, 0.55)
        is_idle = not is_wanted and number % 4 == 1
        rows: list[Mapping[Meaning, float]] = []
        prefill = decode = 0.0
        for _ in range(21):
            runs = float(chance.random() < 0.4) if is_idle else float(chance.randint(1, 8))
            work = runs * chance.uniform(0.5, 1.0)
            part = min(1.0, max(0.0, chance.gauss(0.9 if is_idle else share, 0.05)))
            prefill, decode = prefill + part * work, decode + (1 - part) * work
            rows.append({"running": runs, "prefill_s": prefill, "decode_s": decode})
        records = tuple(request(n, 500.0 * n, 400.0) for n in range(40))
        found = {limit.kind for limit in limits_of(_metrics(*rows), records, (0, 20 * NS))}
        if found != ({"prefill"} if is_wanted else set()):
            wrong.append((number, share, found))
    assert len(wrong) <= 4, wrong


def test_the_client_is_named_with_its_own_sentence() -> None:
    records = closed_loop(users=2, rounds=5, latency_ms=100.0)
    assert _only(limits_of(EngineMetrics(), records, WINDOW, "it was late")) == NamedLimit(
        kind="client", sentence="it was late"
    )
