"""The spending of a search on rented endpoints so far, and whether the next one is within the budget."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace

from engines.api import EngineSpec
from engines.registry import traits
from harness.cost.price import SECONDS_PER_HOUR, price_of
from harness.records import Candidate, Trial
from harness.scenario.cost import Cost

CREATION_S = 600.0
"""Assumed until a trial has been measured: ten minutes from create_endpoint to InService, as published for g5."""


def end_rentals() -> None:
    """Delete what this process put into S3 for its endpoints, if it had any."""
    weights = sys.modules.get("engines.sagemaker.weights")
    if weights is not None:
        weights.release_weights()


class Spending:
    """USD of a run's endpoints, each counted from its launch to the end of its trial: more than AWS bills, never less
    (the retries of a missing instance are counted too)."""

    def __init__(self, cost: Cost | None, load_s: float) -> None:
        self._cost = cost
        self._load_s = load_s
        self._longest_s = 0.0
        self.spent_usd = 0.0

    @property
    def limit_usd(self) -> float | None:
        """The scenario's max_cost_usd."""
        return self._cost.max_cost_usd if self._cost else None

    def note(self, candidate: Candidate, duration_s: float) -> None:
        """Count a trial that took so long, however it ended."""
        price = price_of(self._cost, candidate) if traits(candidate.engine).is_rented else None
        if price is not None:
            self._longest_s = max(self._longest_s, duration_s)
            self.spent_usd += price.usd_per_hour * duration_s / SECONDS_PER_HOUR

    def note_stored(self, trial: Trial) -> None:
        """Count a trial of an earlier start; how long a failed launch took was not stored, so it counts as a whole."""
        self.note(trial.candidate, trial.duration_s if trial.outcome == "ok" else CREATION_S + self._load_s)

    def expected_usd(self, candidate: Candidate) -> float:
        """What one more trial of `candidate` should cost at most; 0 for an engine on this machine."""
        price = price_of(self._cost, candidate) if traits(candidate.engine).is_rented else None
        if price is None:
            return 0.0
        return price.usd_per_hour * (self._longest_s or CREATION_S + self._load_s) / SECONDS_PER_HOUR

    def why_stop(self, candidate: Candidate, pending: Iterable[Candidate] = ()) -> str | None:
        """None while the next trial fits the budget beside those `pending`; else the sentence why not."""
        expected_usd, limit = self.expected_usd(candidate), self.limit_usd
        pending_usd = sum(map(self.expected_usd, pending))
        if limit is None or self.spent_usd + pending_usd + expected_usd <= limit:
            return None
        under_way = f" and about {pending_usd:.2f} under way" if pending_usd else ""
        return (
            f"cost budget: {self.spent_usd:.2f} of {limit:.2f} USD used{under_way}, the next endpoint would cost about "
            f"{expected_usd:.2f}"
        )

    def limited(self, spec: EngineSpec, candidate: Candidate) -> EngineSpec:
        """`spec` whose endpoint deletes itself before the rest of the budget is gone."""
        if not traits(spec.engine).is_rented or self._cost is None:
            return spec
        options = dict(spec.options)
        price = price_of(self._cost, candidate)
        count = options.get("instance_count", 1)
        if price is not None and price.source == "scenario" and isinstance(count, int):
            options["usd_per_hour"] = price.usd_per_hour / count
        if self.limit_usd is not None:
            options["max_cost_usd"] = max(0.0, self.limit_usd - self.spent_usd)
        return replace(spec, options=options)
