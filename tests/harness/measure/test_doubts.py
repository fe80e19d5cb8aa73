"""Each reason to distrust appears with its cause, and only then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.measure.asked_lengths import repeated_prompts, short_metric, too_short_answers
from harness.measure.doubts import client_verdict, doubts_of, measured
from harness.records import RequestRecord
from tests.harness.measure.records import MS, closed_loop, request, use

STEADY = closed_loop(users=4, rounds=100, latency_ms=20.0)


def test_a_clean_measurement_gives_no_reason() -> None:
    assert doubts_of(STEADY, use()) == ()
    assert client_verdict(STEADY, use()) is None


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"other_s": 4.0}, "other_cpu", "other processes used 20%"),
        ({"client_s": 5.0}, "client_cpu", "took 25% of the machine"),
        ({"client_s": 7.5, "cores": 64}, "client_cpu", "used 75% of its core"),
        ({"window_s": 0.5, "other_s": 0.0, "client_s": 0.0}, "short_window", "measured for 0.50 s only"),
    ],
)
def test_resource_reasons(fields: dict[str, float], kind: str, message: str) -> None:
    (doubt,) = doubts_of(STEADY, use(**fields))
    assert doubt.kind == kind
    assert message in doubt.sentence


def test_an_attached_engine_is_not_taken_for_a_disturbance() -> None:
    assert doubts_of(STEADY, use(engine_s=None, other_s=15.0)) == ()


def test_too_few_samples_for_p99() -> None:
    (doubt,) = doubts_of(STEADY[:100], use())
    assert doubt.kind == "few_samples"
    assert "100 answered requests" in doubt.sentence
    assert "368" in doubt.sentence


def test_failures_are_counted_by_kind_with_an_example() -> None:
    bad = request(400, 1990.0, 1.0, outcome="rejected", error="HTTP 503: queue full")
    (doubt,) = doubts_of((*STEADY, bad), use())
    assert doubt.kind == "failed_requests"
    assert "1 of 401 requests failed (1 rejected), for instance: HTTP 503: queue full" in doubt.sentence


def test_drift_between_the_halves() -> None:
    late = [request(400 + r.seq, 2000 + r.intended_ns / MS * 1.2, 24.0, user=r.user) for r in STEADY]
    (doubt,) = doubts_of((*STEADY, *late), use())
    assert doubt.kind == "drift"
    assert "20 ms in the first half, 24 ms in the second" in doubt.sentence


def test_a_late_client() -> None:
    records = [request(n, n * 10.0, 20.0, sent_ns=int(n * 10 * MS + 5 * MS)) for n in range(400)]
    (doubt,) = doubts_of(records, use())
    assert doubt.kind == "late_sends"
    assert "5.0 ms late" in doubt.sentence


def test_answers_without_token_counts() -> None:
    records = [request(r.seq, r.intended_ns / MS, 20.0, output_tokens=None) for r in STEADY[:200]]
    doubt = doubts_of((*records, *STEADY[200:]), use())[0]
    assert doubt.kind == "token_counts"
    assert "200 of 400 answers came without a token count" in doubt.sentence


def test_prompts_without_token_counts() -> None:
    records = [request(r.seq, r.intended_ns / MS, 20.0, input_tokens=None) for r in STEADY[:200]]
    (doubt,) = doubts_of((*records, *STEADY[200:]), use())
    assert doubt.kind == "token_counts"
    assert doubt.sentence.startswith("200 of 400 answers came without a count of their prompt's tokens; input_tokens")


@pytest.mark.parametrize(("pieces", "counted_by", "is_doubted"), [
    (10, "server", False), (11, "server", False), (12, "server", True), (12, "tokenizer", False),
])  # fmt: skip
def test_more_pieces_than_tokens_contradict_the_server_s_count(pieces: int, counted_by: str, is_doubted: bool) -> None:
    def streamed(record: RequestRecord) -> RequestRecord:
        times = tuple(record.intended_ns + n * MS for n in range(1, pieces + 1))
        return replace(record, token_ns=times, first_token_ns=times[0], counted_by=counted_by)

    found = doubts_of(tuple(map(streamed, STEADY)), use())
    assert [doubt.kind for doubt in found] == ["token_counts"] * is_doubted
    if is_doubted:
        assert "400 of 400 answers came in more pieces (median 12) than they have tokens" in found[0].sentence
        assert "(median 10): ITL and TPOT are per piece" in found[0].sentence


def test_answers_shorter_than_the_length_asked_for() -> None:
    short = tuple(replace(r, asked_tokens=50, output_tokens=8 if k % 4 == 0 else 50) for k, r in enumerate(STEADY))
    (doubt,) = doubts_of(short, use())
    assert doubt.kind == "short_answers"
    assert "100 of 400 answers are shorter than the output length asked for (median 8 of 50 tokens)" in doubt.sentence
    assert doubts_of(tuple(replace(r, asked_tokens=10) for r in STEADY), use()) == ()
    assert short_metric(measured(short))["short_answers_frac"].value == 0.25
    assert short_metric(measured(STEADY)) == {}


@pytest.mark.parametrize(("count", "is_doubted", "is_void"), [(4, False, False), (40, True, False), (41, True, True)])
def test_few_short_answers_pass_some_are_doubted_and_many_void_a_load(
    count: int, is_doubted: bool, is_void: bool
) -> None:
    short = [replace(r, asked_tokens=50, output_tokens=8 if k < count else 50) for k, r in enumerate(STEADY)]
    assert [doubt.kind for doubt in doubts_of(short, use())] == ["short_answers"] * is_doubted
    void = too_short_answers(short)
    assert void.startswith(f"{count} of 400 answers (10%) are shorter than the output length asked for") == is_void
    assert bool(void) == is_void


def test_a_saturated_client_voids_the_trial() -> None:
    verdict = client_verdict(STEADY, use(client_s=9.5))
    assert verdict is not None
    assert "95% of its 1 core(s)" in verdict
    assert client_verdict(STEADY, use(client_s=9.5, client_processes=2)) is None


def test_a_window_of_milliseconds_does_not_show_a_saturated_client() -> None:
    assert client_verdict(STEADY, use(window_s=0.003, client_s=0.004)) is None
    assert client_verdict(STEADY, use(window_s=0.2, client_s=0.2)) is not None


def test_answers_longer_than_the_length_asked_for() -> None:
    long = tuple(replace(r, asked_tokens=8, output_tokens=40 if k % 4 == 0 else 9) for k, r in enumerate(STEADY))
    (doubt,) = doubts_of(long, use())
    assert doubt.kind == "long_answers"
    assert "100 of 400 answers are longer than the output length asked for (median 40 of 8 tokens)" in doubt.sentence


def test_lengths_that_nobody_counted_are_not_proven() -> None:
    bare = tuple(
        replace(r, asked_tokens=8, asked_input_tokens=9, output_tokens=None, input_tokens=None) for r in STEADY
    )
    tokens, inputs = doubts_of(bare, use())
    assert (tokens.kind, inputs.kind) == ("token_counts", "input_lengths")
    assert "whether the 400 answers have the output length asked for is not known" in tokens.sentence
    assert "no answer came with a count of its input tokens" in inputs.sentence


@pytest.mark.parametrize(
    ("asked", "counted", "is_doubted"),
    [(100, 100, False), (100, 110, False), (100, 89, True), (100, 130, True), (4, 6, False), (4, 7, True)],
)
def test_inputs_that_miss_the_trace_s_length(asked: int, counted: int, is_doubted: bool) -> None:
    found = doubts_of(tuple(replace(r, asked_input_tokens=asked, input_tokens=counted) for r in STEADY), use())
    assert [doubt.kind for doubt in found] == ["input_lengths"] * is_doubted
    if is_doubted:
        share = f"in the median they have {counted / asked:.0%} of its tokens"
        assert found[0].sentence.startswith("400 of 400 inputs miss the length asked for by more than 10%")
        assert share in found[0].sentence
    few = [
        replace(r, asked_input_tokens=asked, input_tokens=counted if k < 20 else asked) for k, r in enumerate(STEADY)
    ]
    assert doubts_of(few, use()) == ()


def test_prompts_that_the_server_has_seen_are_counted_by_text_warm_up_and_quality_check_included() -> None:
    texts = {"a": "x", "b": "x", "c": "y", "d": "z"}
    warm = request(-1, 0.0, 1.0, prompt_ids=("a",), is_warmup=True)
    sent = [request(k, 1.0 + k, 1.0, prompt_ids=(name,)) for k, name in enumerate("bcdc")]
    assert repeated_prompts(sent, texts, ()).startswith("1 of 4 measured requests repeated prompts")
    assert "(3 different ones, warm-up" in repeated_prompts(sent, texts, ())
    assert repeated_prompts([warm, *sent], texts, ()).startswith("2 of 4 measured requests")
    assert repeated_prompts([warm, *sent], texts, ("c", "d")).startswith("4 of 4 measured requests")
    assert repeated_prompts([*sent[:3]], texts, ()) == ""
    both = request(9, 20.0, 1.0, prompt_ids=("c", "e"))
    assert repeated_prompts([*sent[:3], both], texts, ()) == "", "one of the two prompts is new"
    assert repeated_prompts([request(0, 0.0, 1.0, prompt_ids=())], texts, ()) == ""


@pytest.mark.parametrize(("cached", "is_doubted"), [(None, False), (0, False), (5, True)])
def test_prompts_from_a_prefix_cache_put_a_trial_in_doubt(cached: int | None, is_doubted: bool) -> None:
    found = doubts_of(tuple(replace(r, input_tokens=10, cached_tokens=cached) for r in STEADY), use())
    assert [doubt.kind for doubt in found] == ["cached_prompts"] * is_doubted
    if is_doubted:
        assert found[0].sentence.startswith("50% of the prompts' tokens came from the server's prefix cache (2000 by")
