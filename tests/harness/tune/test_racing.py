"""Racing on simulated requests: how often a trial that is no worse than the margin is ended, and one that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from harness.records import Candidate, Metric, RequestRecord, Trial, TrialSummary
from harness.scenario.schema import Scenario
from harness.tune.probe import PROBE_ERROR
from harness.tune.race_bounds import MIN_BLOCKS, Floats
from harness.tune.racing import CHECK_FRACS, ERROR, Seen, Terms, lost, seen, terms_for

REQUESTS = 600
MARGIN = 0.10
PROMPT_SD = 0.3
"""Of the logarithm of a latency, from prompt to prompt: the same for all trials."""
OWN_SD = 0.18
"""From request to request of one trial: with it the paired ratio has a standard deviation of 0.25."""
Kind = Mapping[str, float]
INDEPENDENT: Kind = {}
DEPENDENT: Kind = {"rho": 0.6}
BATCHES: Kind = {"batch": 8}


def _noise(rng: np.random.Generator, rho: float = 0.0, batch: int = 1) -> Floats:
    """Unit variance: with autocorrelation `rho` from request to request, or most of it shared by a batch."""
    own = rng.standard_normal(REQUESTS)
    if batch > 1:
        shared = np.repeat(rng.standard_normal(math.ceil(REQUESTS / batch)), batch)[:REQUESTS]
        return math.sqrt(0.7) * shared + math.sqrt(0.3) * own
    for place in range(1, REQUESTS):
        own[place] = rho * own[place - 1] + math.sqrt(1 - rho**2) * own[place]
    return own


def _load(rng: np.random.Generator, prompts: Floats, factor: float, kind: Kind) -> Seen:
    waited = np.exp(prompts + OWN_SD * _noise(rng, **kind)) * factor  # type: ignore[arg-type]
    return Seen(np.cumsum(waited) / 8, waited)


def _terms(challengers: int = 1, metric: str = "latency_p50_ms", margin: float = MARGIN) -> Terms:
    checks = tuple(int(REQUESTS * frac) for frac in CHECK_FRACS)
    return Terms(
        against="best",
        metric=metric,
        against_value=1.0,
        margin_frac=margin,
        margin_why="",
        checks=checks,
        level=ERROR / challengers / len(checks),
        round_requests=8,
    )


def _is_ended(terms: Terms, mine: Seen, best: Seen) -> bool:
    return any(lost(terms, check, mine, best) is not None for check in range(len(terms.checks)))


def _ended_frac(races: int, worse: float, kind: Kind, terms: Terms, launch_sd: float = 0.0) -> float:
    """Share of races that a trial loses which is truly `worse` times as slow as the best."""
    ended = 0
    for race in range(races):
        rng = np.random.default_rng([19, race])
        prompts, luck = PROMPT_SD * rng.standard_normal(REQUESTS), np.exp(launch_sd * rng.standard_normal(2))
        best, mine = _load(rng, prompts, float(luck[0]), kind), _load(rng, prompts, worse * float(luck[1]), kind)
        ended += _is_ended(terms, mine, best)
    return ended / races


@pytest.mark.parametrize("kind", [INDEPENDENT, DEPENDENT, BATCHES], ids=["independent", "dependent", "batches"])
@pytest.mark.parametrize(
    "metric", ["latency_p50_ms", "latency_mean_ms", "throughput_rps", "latency_p90_ms", "latency_p99_ms"]
)
def test_what_is_worse_by_just_the_margin_is_ended_no_more_often_than_the_level(kind: Kind, metric: str) -> None:
    assert _ended_frac(200, 1 + MARGIN, kind, _terms(metric=metric)) <= ERROR


@pytest.mark.parametrize("kind", [INDEPENDENT, DEPENDENT, BATCHES], ids=["independent", "dependent", "batches"])
def test_an_equal_is_never_ended(kind: Kind) -> None:
    """As one of eleven challengers."""
    assert _ended_frac(200, 1.0, kind, _terms(challengers=11)) == 0


def test_the_luck_of_a_launch_ends_an_equal_no_more_often_than_the_level() -> None:
    """The margin is twice the spread between two launches, each of which has its own luck."""
    assert 0 < _ended_frac(300, 1.0, INDEPENDENT, _terms(margin=0.06), launch_sd=0.03 / math.sqrt(2)) <= ERROR


def test_a_whole_search_of_equals_ends_one_no_more_often_than_the_level() -> None:
    """Eleven challengers of the luckiest so far, launches 1 % apart, the spread assumed."""
    terms, ended = _terms(challengers=11), 0
    for search in range(40):
        rng = np.random.default_rng([20, search])
        prompts, best, fastest = PROMPT_SD * rng.standard_normal(REQUESTS), None, math.inf
        for _ in range(12):
            luck = math.exp(0.01 * rng.standard_normal())
            mine = _load(rng, prompts, luck, INDEPENDENT)
            if best is not None and _is_ended(terms, mine, best):
                ended += 1
                break
            if luck < fastest:
                best, fastest = mine, luck
    assert ended / 40 <= ERROR


@pytest.mark.parametrize(("worse", "share"), [(0.10, 0.80), (0.30, 0.95)])
@pytest.mark.parametrize("metric", ["latency_p50_ms", "latency_mean_ms", "throughput_rps"])
def test_what_is_surely_worse_is_ended(worse: float, share: float, metric: str) -> None:
    """As one of eleven challengers."""
    truth = (1 + MARGIN) * (1 + worse)
    assert _ended_frac(100, truth, INDEPENDENT, _terms(challengers=11, metric=metric)) >= share


def test_the_evidence_states_a_bound_below_the_truth_and_above_the_margin() -> None:
    rng = np.random.default_rng(3)
    prompts = PROMPT_SD * rng.standard_normal(REQUESTS)
    best, mine = _load(rng, prompts, 1.0, INDEPENDENT), _load(rng, prompts, 2.0, INDEPENDENT)
    terms = _terms()
    race = lost(terms, 1, mine, best)
    assert race is not None
    assert MARGIN < race.at_least_frac < 1.0
    assert race.at_least_frac < race.worse_frac
    assert (race.against, race.requests, race.check, race.checks) == ("best", terms.checks[1], 2, 4)
    assert race.blocks >= MIN_BLOCKS
    assert race.blocks * race.block_requests <= race.requests


def test_a_tail_that_is_surely_worse_is_ended_from_fewer_requests_the_nearer_it_is_to_the_median() -> None:
    """As one of eleven challengers, by 30 % more than the margin; a p99 needs more than these 600 requests for that."""
    p90, p99 = (
        _ended_frac(100, (1 + MARGIN) * 1.3, BATCHES, _terms(challengers=11, metric=metric))
        for metric in ("latency_p90_ms", "latency_p99_ms")
    )
    assert p90 >= 0.95
    assert 0.4 <= p99 < p90
    assert _ended_frac(50, (1 + MARGIN) * 1.8, BATCHES, _terms(challengers=11, metric="latency_p99_ms")) >= 0.95


def _ended_at_once(worse: float, kind: Kind, probe: int | None, races: int = 200) -> float:
    """Share of trials, truly `worse` times as slow, that end at the first check."""
    terms = replace(_terms(11), probe=probe)
    ended = 0
    for race in range(races):
        rng = np.random.default_rng([190, race])
        prompts = PROMPT_SD * rng.standard_normal(REQUESTS)
        best, mine = _load(rng, prompts, 1.0, kind), _load(rng, prompts, worse, kind)
        found = lost(terms, 0, mine, best)
        assert found is None or found.is_probe == (probe is not None and found.level == PROBE_ERROR)
        ended += found is not None
    return ended / races


@pytest.mark.parametrize("kind", [INDEPENDENT, BATCHES], ids=["independent", "batches"])
def test_a_probe_ends_by_chance_as_often_as_it_states_and_an_equal_never(kind: Kind) -> None:
    assert _ended_at_once(1 + MARGIN, kind, probe=0) <= PROBE_ERROR + 0.02
    assert _ended_at_once(1.0, kind, probe=0) == 0.0


def test_a_probe_ends_at_the_first_check_what_a_race_cannot_yet() -> None:
    assert _ended_at_once(1.6, BATCHES, probe=None) <= 0.1
    assert _ended_at_once(1.6, BATCHES, probe=0) >= 0.8


@pytest.mark.parametrize("metric", ["throughput_rps", "latency_mean_ms"])
def test_other_objectives_are_probed_too(metric: str) -> None:
    terms = replace(_terms(11, metric), probe=0)
    rng = np.random.default_rng(1)
    prompts = PROMPT_SD * rng.standard_normal(REQUESTS)
    found = lost(terms, 0, _load(rng, prompts, 2.5, INDEPENDENT), _load(rng, prompts, 1.0, INDEPENDENT))
    assert found is not None
    assert (found.metric, found.requests, found.check) == (metric, 75, 1)


def test_few_blocks_and_failed_requests_end_nothing() -> None:
    waits = np.full(REQUESTS, 1.0)
    best = Seen(np.cumsum(waits), waits)
    assert lost(replace(_terms(), checks=(MIN_BLOCKS * 8 - 1,)), 0, Seen(best.began, 3 * waits), best) is None
    failed = np.where(np.arange(REQUESTS) % 8 == 0, 3.0, np.nan)
    assert lost(_terms(), 3, Seen(best.began, failed), best) is None


def _record(seq: int, begin_ns: int, done_ns: int, outcome: str = "ok") -> RequestRecord:
    return RequestRecord(
        seq=seq,
        user=0,
        prompt_ids=("p",),
        intended_ns=begin_ns,
        sent_ns=begin_ns,
        first_token_ns=None,
        done_ns=done_ns,
        outcome=outcome,  # type: ignore[arg-type]
        status_code=200,
        input_tokens=None,
        output_tokens=None,
        output_ids=(),
        is_warmup=False,
    )


def test_a_request_without_an_answer_counts_at_least_its_age() -> None:
    """Request 1 hangs since 100 at the latest, when request 2 began; nobody knows whether 4 was sent."""
    records = [_record(0, 0, 60), _record(2, 100, 130), _record(3, 130, 150, "server_error")]
    found = seen(records, 1000)
    np.testing.assert_array_equal(found.waited, [60.0, 900.0, 30.0, np.nan])
    np.testing.assert_array_equal(found.began, [0.0, 100.0, 100.0, 130.0])


def _scenario(**changes: object) -> Scenario:
    fields = {"name": "s", "space": [{"engine": "fake"}], "search": {"trials": 11}}
    return Scenario.model_validate({**fields, **changes})


def _trial(workers: int, latency_ms: float, number: int = 1, answered: int = 400) -> Trial:
    metric = Metric(value=latency_ms, unit="ms", estimator="t", n=answered)
    return Trial(
        trial_id=f"t{number}-{workers}",
        number=number,
        candidate=Candidate(block=0, engine="fake", workers=workers),
        outcome="ok",
        summary=TrialSummary(metrics={"latency_p50_ms": metric}),
    )


def test_good_means_what_the_slo_says_and_only_of_latencies() -> None:
    goal = {"objectives": [{"metric": "goodput_frac", "goal": "maximize"}]}
    share = Metric(value=0.9, unit="frac", estimator="t", n=400)
    done = [replace(_trial(n, 10.0), summary=TrialSummary(metrics={"goodput_frac": share})) for n in (1, 2)]
    terms = terms_for("fake", done, _scenario(workload={"slo": {"latency_ms": 200}}, **goal))
    assert terms is not None
    assert terms.good_within == 200e6
    token_times = {"stream": True, "slo": {"latency_ms": 200, "ttft_ms": 50}}
    assert terms_for("fake", done, _scenario(workload=token_times, **goal)) is None


def test_a_trial_races_the_best_feasible_one_and_shares_the_level() -> None:
    slow, fast, broken = _trial(1, 20.0), _trial(2, 10.0), replace(_trial(3, 5.0), violations=("quality",))
    terms = terms_for("fake", [slow, fast, broken], _scenario())
    assert terms is not None
    assert (terms.against, terms.margin_frac, terms.round_requests) == (fast.trial_id, 0.10, 8)
    assert terms.checks == (50, 100, 200, 300)
    assert terms.level == pytest.approx(0.05 / 10 / 4)
    assert terms_for("fake", [fast, broken], _scenario()) is None
    assert terms_for("fake", [_trial(1, 20.0), _trial(2, 10.0, answered=5)], _scenario()) is None


def test_on_a_machine_a_trial_races_the_best_that_this_machine_measured_itself() -> None:
    fast, slow, slower = (
        replace(_trial(n, ms), machine=name) for n, ms, name in ((1, 10.0, "a"), (2, 12.0, "b"), (3, 20.0, "b"))
    )
    on = {name: terms_for("fake", [fast, slow, slower], _scenario(), machine=name) for name in ("", "a", "b", "c")}
    against = {name: terms and (terms.against, terms.against_value) for name, terms in on.items()}
    first = (fast.trial_id, 10.0)
    assert against == {"": first, "a": first, "b": (slow.trial_id, 12.0), "c": None}


@pytest.mark.parametrize("factor", [1.03, 1.25])
def test_equals_on_two_machines_of_unlike_speed_are_ended_no_more_often_than_the_level(factor: float) -> None:
    """Searches of eleven equals, launches 1 % apart, every other trial on the slower machine."""
    ended = raced = 0
    for search in range(40):
        rng = np.random.default_rng([21, search])
        prompts, loads, done = PROMPT_SD * rng.standard_normal(REQUESTS), dict[str, Seen](), list[Trial]()
        for number in range(1, 12):
            machine, speed = ("a", 1.0) if number % 2 else ("b", factor)
            mine = _load(rng, prompts, speed * math.exp(0.01 * rng.standard_normal()), INDEPENDENT)
            terms = terms_for("fake", done, _scenario(), machine=machine)
            if terms is not None:
                raced += 1
                if _is_ended(terms, mine, loads[terms.against]):
                    ended += 1
                    break
            trial = _trial(number, float(np.median(mine.waited)), number, REQUESTS)
            loads[trial.trial_id] = mine
            done.append(replace(trial, machine=machine))
    assert raced > 40
    assert ended / 40 <= ERROR


def test_the_first_check_is_a_probe_where_load_takes_the_time_and_requests_are_compared() -> None:
    costs = {0: {"launch": 10.0, "load": 20.0}, None: {"launch": 60.0, "load": 20.0}}
    for probe, phase_s in costs.items():
        done = [replace(_trial(n, 10.0), phase_s=phase_s) for n in (1, 2)]
        terms = terms_for("fake", done, _scenario())
        assert terms is not None
        assert terms.probe == probe
    p99 = TrialSummary(metrics={"latency_p99_ms": Metric(value=10.0, unit="ms", estimator="t", n=400)})
    tail = {"objectives": [{"metric": "latency_p99_ms", "goal": "minimize"}]}
    terms = terms_for(
        "fake", [replace(_trial(n, 10.0), summary=p99, phase_s=costs[0]) for n in (1, 2)], _scenario(**tail)
    )
    assert terms is not None
    assert (terms.probe, terms.probe_why[:10]) == (None, "not probed")


@pytest.mark.parametrize(
    "changes",
    [
        {"search": {"race": False}},
        {"search": {"sampler": "grid"}},
        {"objectives": [{"metric": "latency_max_ms", "goal": "minimize"}]},
        {"objectives": [{"metric": m, "goal": "minimize"} for m in ("latency_p50_ms", "peak_memory_mib")]},
        {
            "workload": {"load": {"kind": "poisson", "rate_rps": 5}},
            "objectives": [{"metric": "throughput_rps", "goal": "maximize"}],
        },
    ],
)
def test_what_cannot_be_compared_by_blocks_is_not_raced(changes: Mapping[str, object]) -> None:
    done = [_trial(1, 20.0), _trial(2, 10.0)]
    assert terms_for("fake", done, _scenario()) is not None
    assert terms_for("fake", done, _scenario(**changes)) is None
