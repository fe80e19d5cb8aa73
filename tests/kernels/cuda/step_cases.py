"""Cases of the kernels between two decode steps: the logits processors, and the step from a token to the next input."""

# ruff: noqa: N803, N806 - tensor letters
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.kernels.cuda import jobs, reference
from tests.kernels.cuda.sim import Sim

Case = Callable[[Sim, np.random.Generator], None]


def _state(sim: Sim, rows: list[jobs.RowRules], ids: list[list[int]], words: list[list[int]], eos: list[int]) -> Any:
    """The state of decode rows with these ids; an empty list pads the batch."""
    flat = np.array([token for word in words for token in word], np.int32)
    R, capacity = len(rows), max(map(len, ids)) + 2
    history = np.full((R, capacity), -7, np.int32)
    for r, each in enumerate(ids):
        history[r, : len(each)] = each
    ends = np.cumsum([0, *map(len, words)]).astype(np.int32)
    sample = (jobs.SampleRow * R)(*[jobs.SampleRow(9, len(each), 1.0, 1.0, 0, r % 2) for r, each in enumerate(ids)])
    arrays = [
        np.frombuffer((jobs.RowRules * R)(*rows), np.uint8), flat if len(flat) else
        np.zeros(1, np.int32), ends, np.array(eos, np.int32), history,
        np.array([e[-1] if e else 0 for e in ids], np.int32),
        np.array([len(e) - 1 for e in ids], np.int32), np.array([not e for e in ids], np.int32),
        np.frombuffer(sample, np.uint8),
    ]  # fmt: skip
    return jobs.StepState(*[sim.up(a) for a in arrays], capacity, len(eos), R), capacity


def process_scores(V: int, threads: int) -> Case:
    """Penalty, n-grams, bad words and min new tokens, alone and together, on rows that share nothing."""

    def run(sim: Sim, rng: np.random.Generator) -> None:
        words, eos = [[5], [3, 4], [V - 1], [2, 3, 4], [1]], [1, 6]
        rules = [  # penalty, ngram, min_new, first word, words, is_beam, ends_at_eos
            (1.0, 0, 0, 0, 0, 0, 1), (1.7, 0, 0, 0, 0, 0, 1), (1.0, 2, 0, 0, 0, 0, 1), (1.0, 1, 0, 0, 0, 1, 1),
            (1.0, 0, 9, 0, 5, 0, 1), (0.5, 3, 4, 1, 3, 1, 0), (1.0, 0, 0, 4, 1, 0, 0), (1.0, 0, 0, 4, 1, 0, 1),
            (1.0, 0, 4, 0, 0, 0, 1), (2.0, 4, 9, 0, 5, 0, 1),
        ]  # fmt: skip
        ids = [[0, *rng.integers(2, 5, n).tolist()] for n in (3, 9, 6, 1, 4, 12, 2, 2, 3)]
        ids.append([])
        ids[4][-1] = 3
        rows = [jobs.RowRules(p, n, m, 99, first, count, beam, 0, end) for p, n, m, first, count, beam, end in rules]
        x = rng.normal(size=(len(rows), V + 3)).astype(np.float32)
        shift = rng.normal(size=len(rows)).astype(np.float32)
        state, _ = _state(sim, rows, ids, words, eos)
        y = sim.empty(len(rows) * V * 4)
        job = jobs.Process(state, sim.up(x), sim.up(shift), y, V + 3, V, V)
        sim.launch("process_scores", job, grid=(len(rows),), threads=threads)
        got = sim.down(y, (len(rows), V), np.float32)
        for r, (penalty, ngram, min_new, first, count, is_beam, ends) in enumerate(rules[:-1]):
            scores = x[r, :V] - shift[r] if is_beam else x[r, :V].copy()
            mine = words[first : first + count]
            want = reference.processed(scores, ids[r], penalty, ngram, min_new, mine, eos if ends else [], eos)
            assert np.array_equal(got[r], want), f"row {r}"
        assert np.isnan(got[-1]).all(), "a row that pads the batch was written"

    return run


def advance(V: int, threads: int, *, has_scores: bool) -> Case:
    """Each row takes its token, greedy or drawn, and ends where it must; ended rows, padding and beams stand still."""

    def run(sim: Sim, rng: np.random.Generator) -> None:
        eos, lost = [1, 6], 0x7FFFFFFF
        ids = [[0, 4], [0, 3, 3], [0], [], [0, 9], [0, 2, 2], [0, 5], [0, 5], [0, 8, 8, 8]]
        best = [5, 6, 6, 0, 2, 3, lost, 4, 7]
        drawn = [7, 8, 3, 0, 1, 4, 2, 2, 2]
        rules = [jobs.RowRules(1.0, 0, 0, 9, 0, 0, r == 4, r % 3 == 0, r != 2) for r in range(len(ids))]
        rules[8].last = 4
        state, capacity = _state(sim, rules, ids, [], eos)
        done = np.array([not each for each in ids], np.int32)
        done[5] = 1
        state.done = sim.up(done)
        R = len(ids)
        x = rng.normal(size=(R, V)).astype(np.float32)
        x[7, 2] = np.inf
        normalizer = rng.normal(size=R).astype(np.float32)
        record = np.zeros(R, [("value", "f4"), ("index", "i4")])
        record["index"], record["value"] = best, x[np.arange(R), np.minimum(best, V - 1)]
        chosen = sim.empty(R * 8)
        job = jobs.Advance(
            state, sim.up(record), sim.up(np.array(drawn, np.int32)), sim.up(x) if has_scores else None,
            sim.up(normalizer), chosen, V, V,
        )  # fmt: skip
        sim.launch("advance", job, grid=(-(-R // threads),), threads=threads)
        got = sim.down(chosen, (R,), np.dtype([("token", "i4"), ("logprob", "f4")]))
        position, ended = sim.down(state.position, (R,), np.int32), sim.down(state.done, (R,), np.int32)
        history = sim.down(state.history, (R, capacity), np.int32)
        for r in range(R):
            stands = not ids[r] or r in (4, 5)
            token = -1 if stands else best[r] if r % 2 else drawn[r]
            token = 0 if token == lost else token
            assert got["token"][r] == token, f"row {r}"
            assert position[r] == len(ids[r]) - stands, f"row {r}"
            if stands:
                continue
            assert history[r, : len(ids[r]) + 1].tolist() == [*ids[r], token]
            assert ended[r] == ((token in eos and r != 2) or r == 8), f"row {r}"
            logit = x[r, token] if has_scores else record["value"][r]
            said = logit - normalizer[r] if r % 3 == 0 else 0.0
            assert np.float32(said if np.isfinite(logit) else np.nan).tobytes() == got["logprob"][r].tobytes() or (
                np.isnan(got["logprob"][r]) and not np.isfinite(logit)
            ), f"row {r}"

    return run


def step_cases() -> Iterator[tuple[str, Case, bool]]:
    """(name, case, whether it is small)."""
    for V, threads in ((11, 32), (300, 256)):
        yield f"process_scores-{V}", process_scores(V, threads), V < 100
        for has_scores in (False, True):
            yield f"advance-{V}{'-scores' * has_scores}", advance(V, threads // 4, has_scores=has_scores), V < 100
