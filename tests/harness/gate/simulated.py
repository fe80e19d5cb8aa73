"""Simulated launches with a known truth: each launch has a level of its own, the machine drifts, requests depend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.gate.launches import Launch
from harness.gate.pairing import Match
from harness.gate.sides import Sides
from harness.records import Candidate, Trial
from harness.store.formats import RunManifest
from harness.store.pairs import Pairs
from harness.store.reader import Run

Floats = npt.NDArray[np.float64]
BASELINE, CANDIDATE = Path("baseline"), Path("candidate")
CHUNK = 4000
"""Launches simulated at once: 4,000 x 400 requests are 13 MB."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Log-latency of a request: drift of its slot + launch_sd * N(0,1) + sigma * AR(1) with `correlation`.

    Slots follow each other in ABBA order; between two slots the machine's level walks by drift_sd * N(0,1).
    """

    launch_sd: float = 0.01
    sigma: float = 0.25
    correlation: float = 0.3
    requests: int = 400
    drift_sd: float = 0.0
    error_frac: float = 0.001

    def simulate(self, rng: np.random.Generator, gates: int, pairs: int, worse: float = 0.0) -> dict[str, Floats]:
        """Metric -> values [gate, side, pair]; the candidate's latencies are (1 + worse) times the baseline's."""
        levels = self.launch_sd * rng.normal(size=(gates, pairs, 2))
        drift = np.cumsum(self.drift_sd * rng.normal(size=(gates, 2 * pairs)), axis=1).reshape(gates, pairs, 2)
        drift[:, 1::2] = drift[:, 1::2, ::-1]  # in every second pair the candidate comes first
        levels = (levels + drift).transpose(0, 2, 1)
        levels[:, 1] += np.log1p(worse)
        flat = levels.reshape(-1)
        parts = [self._measure(rng, flat[begin : begin + CHUNK]) for begin in range(0, len(flat), CHUNK)]
        return {name: np.concatenate([part[name] for part in parts]).reshape(levels.shape) for name in parts[0]}

    def _measure(self, rng: np.random.Generator, levels: Floats) -> dict[str, Floats]:
        noise = rng.normal(size=(self.requests, len(levels)))
        for index in range(1, self.requests):
            noise[index] = self.correlation * noise[index - 1] + np.sqrt(1 - self.correlation**2) * noise[index]
        latency_ms = 10 * np.exp(levels + self.sigma * noise)
        return {
            "latency_p50_ms": np.quantile(latency_ms, 0.5, axis=0),
            "latency_p99_ms": np.quantile(latency_ms, 0.99, axis=0),
            "throughput_rps": 1e3 / latency_ms.mean(axis=0),
            "error_frac": rng.binomial(self.requests, self.error_frac, size=len(levels)) / self.requests,
        }


class Replay:
    """Stands in for harness.gate.launches.launches: the values of one simulated gate."""

    def __init__(self, values: dict[str, Floats], requests: int) -> None:
        self._values = values
        self._requests = requests
        self.gate = 0

    def __call__(self, root: Path, trials: Sequence[Trial], name: str) -> tuple[Launch, ...]:
        if name not in self._values:
            return ()
        side = 0 if root == BASELINE else 1
        row = self._values[name][self.gate, side]
        return tuple(
            Launch(trial_id=trial.trial_id, value=float(row[trial.number]), n=self._requests, sampling=0.03)
            for trial in trials
        )


def sides(pairs: int, *, is_paired: bool) -> Sides:
    """Two runs of one candidate with `pairs` launches each, whose values come from a Replay."""
    trials = tuple(
        Trial(trial_id=f"t{number}", number=number, candidate=Candidate(block=0, engine="fake"), outcome="ok")
        for number in range(pairs)
    )
    runs = [
        Run(root=root, manifest=RunManifest(scenario={}, digest=""), trials=trials) for root in (BASELINE, CANDIDATE)
    ]
    return Sides(
        baselines=(runs[0],),
        candidate=runs[1],
        matches=(Match(candidate_id="c", label="fake", baseline=(trials,), candidate=trials),),
        pairs=Pairs(baseline="baseline", share=1.0, trial_ids=tuple((t.trial_id, t.trial_id) for t in trials))
        if is_paired
        else None,
    )


def binomial_tail(successes: int, n: int, p: float) -> float:
    """P(X <= successes) of Bin(n, p), exactly."""
    log_p = np.log(p), np.log1p(-p)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(successes + 1)
    logs = log_factorial[n] - log_factorial[k] - log_factorial[n - k] + k * log_p[0] + (n - k) * log_p[1]
    return float(np.exp(logs).sum())


def upper_bound(successes: int, n: int, level: float = 0.05) -> float:
    """Clopper & Pearson (1934): the true probability lies below it with confidence 1 - level."""
    low, high = successes / n, 1.0 - 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle > 0 and binomial_tail(successes, n, middle) > level else (low, middle)
        if middle == 0:
            low = 1e-12
    return high


def lower_bound(successes: int, n: int, level: float = 0.05) -> float:
    """The true probability lies above it with confidence 1 - level."""
    return 1 - upper_bound(n - successes, n, level)
