"""Programmed latency laws of the fake engine with their exact quantiles, which the harness must recover."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

from engines.errors import SpecInvalid
from engines.setting import OptionValue


class Law(Protocol):
    """A distribution of service time, in milliseconds."""

    def sample_ms(self, rng: random.Random) -> float: ...
    def quantile_ms(self, q: float) -> float:
        """The exact q-quantile, 0 < q < 1."""
        ...

    def mean_ms(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """Always `service_ms`."""

    service_ms: float

    def sample_ms(self, rng: random.Random) -> float:
        return self.service_ms

    def quantile_ms(self, q: float) -> float:
        return self.service_ms

    def mean_ms(self) -> float:
        return self.service_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Lognormal:
    """exp(N(ln service_ms, sigma)): median `service_ms`."""

    service_ms: float
    sigma: float

    def sample_ms(self, rng: random.Random) -> float:
        return self.service_ms * math.exp(self.sigma * rng.gauss(0.0, 1.0))

    def quantile_ms(self, q: float) -> float:
        return self.service_ms * math.exp(self.sigma * NormalDist().inv_cdf(q))

    def mean_ms(self) -> float:
        return self.service_ms * math.exp(self.sigma**2 / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bimodal:
    """`slow_ms` with probability `slow_frac`, else `service_ms` (which must be the smaller)."""

    service_ms: float
    slow_ms: float
    slow_frac: float

    def sample_ms(self, rng: random.Random) -> float:
        return self.slow_ms if rng.random() < self.slow_frac else self.service_ms

    def quantile_ms(self, q: float) -> float:
        return self.service_ms if q <= 1.0 - self.slow_frac else self.slow_ms

    def mean_ms(self) -> float:
        return self.slow_frac * self.slow_ms + (1.0 - self.slow_frac) * self.service_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """One freeze: work that would begin or end inside [after_s, after_s + stall_ms) since load ends at its end.

    Outside it nothing changes. With `every_s` > 0 the freeze comes again that long after each begin.
    """

    after_s: float
    stall_ms: float
    every_s: float = 0.0

    def end_s(self, begin_s: float, end_s: float) -> float:
        """When work that ran from `begin_s` to `end_s` (seconds since load) really ends: the freeze is added whole
        when the work was under way as it began, in part when the work began inside it."""
        frozen_s, begin_of_stall = 0.0, self.after_s
        if self.every_s > 0.0 and begin_s > self.after_s:
            begin_of_stall += self.every_s * math.floor((begin_s - self.after_s) / self.every_s)
        while begin_of_stall < end_s + frozen_s:
            end_of_stall = begin_of_stall + self.stall_ms / 1e3
            frozen_s += max(0.0, end_of_stall - max(begin_s, begin_of_stall))
            if self.every_s <= 0.0:
                break
            begin_of_stall += self.every_s
        return end_s + frozen_s


def law_of(options: Mapping[str, OptionValue]) -> Law:
    """The law that `options` name: law constant|lognormal|bimodal|stall, service_ms, sigma, slow_ms, slow_frac.

    'stall' is constant service; its freeze comes from `stall_of`. Raises SpecInvalid.
    """
    name = options.get("law", "constant")
    service_ms = number(options, "service_ms", 1.0)
    if name in ("constant", "stall"):
        return Constant(service_ms=service_ms)
    if name == "lognormal":
        return Lognormal(service_ms=service_ms, sigma=number(options, "sigma", 0.25))
    if name == "bimodal":
        slow_ms = number(options, "slow_ms", 10.0 * service_ms)
        return Bimodal(service_ms=service_ms, slow_ms=slow_ms, slow_frac=number(options, "slow_frac", 0.05))
    raise SpecInvalid(f"option law={name!r}: expected constant, lognormal, bimodal or stall")


def stall_of(options: Mapping[str, OptionValue]) -> Stall | None:
    """The freeze that law=stall asks for (stall_after_s, stall_ms, stall_every_s), else None."""
    if options.get("law", "constant") != "stall":
        return None
    return Stall(
        after_s=number(options, "stall_after_s", 1.0),
        stall_ms=number(options, "stall_ms", 1000.0),
        every_s=number(options, "stall_every_s", 0.0),
    )


def number(options: Mapping[str, OptionValue], name: str, default: float) -> float:
    """Option `name` as a number >= 0. Raises SpecInvalid."""
    value = options.get(name, default)
    if isinstance(value, bool | str) or not value >= 0 or math.isinf(value):
        raise SpecInvalid(f"option {name}={value!r}: expected a number >= 0")
    return float(value)
