"""The price of a candidate's instance, and cost metrics made from price and throughput."""

from __future__ import annotations

from dataclasses import replace

from engines.errors import EngineError
from engines.registry import traits
from engines.sagemaker.catalogue import Price, instance_of
from harness.errors import ScenarioError
from harness.records import Candidate, Metric, TrialSummary
from harness.scenario.cost import Cost
from harness.scenario.schema import Scenario

SECONDS_PER_HOUR = 3600.0
_MADE_FROM = (
    ("cost_usd_per_1k_prompts", "throughput_inputs_per_s", 1e3, "USD/1000 prompts"),
    ("cost_usd_per_mtok", "output_tokens_per_s", 1e6, "USD/Mtok"),
)


def price_of(cost: Cost | None, candidate: Candidate) -> Price | None:
    """USD per hour of everything that serves `candidate`; None where nothing names the hardware.

    An endpoint's instance is its own option; a local engine's is the scenario's. The user's price wins over the
    catalogue's. Raises EngineError for an instance that is not in the catalogue and has no price in the scenario.
    """
    options = candidate.options
    is_endpoint = traits(candidate.engine).is_rented
    named = options.get("instance") if is_endpoint else (cost.instance if cost else None)
    count = options.get("instance_count", 1) if is_endpoint else 1
    given = options.get("usd_per_hour") if is_endpoint else None
    price = _given(cost, None if named is None else str(named), given)
    if price is None and named is not None:
        price = instance_of(str(named)).price
    if price is None or not isinstance(count, int):
        return None
    return replace(price, usd_per_hour=price.usd_per_hour * count)


def _given(cost: Cost | None, instance: str | None, option: object) -> Price | None:
    if isinstance(option, int | float) and not isinstance(option, bool):
        return Price(usd_per_hour=float(option), source="option", origin="the engine's option usd_per_hour")
    if cost is None:
        return None
    if instance in cost.prices:
        usd_per_hour = cost.prices[str(instance)]
        return Price(usd_per_hour=usd_per_hour, source="scenario", origin="the scenario's cost.prices")
    if cost.usd_per_hour is not None and cost.instance in (None, instance):
        origin = "the scenario's cost.usd_per_hour"
        return Price(usd_per_hour=cost.usd_per_hour, source="scenario", origin=origin)
    return None


def with_cost(summary: TrialSummary, cost: Cost | None, candidate: Candidate, parts: int = 1) -> TrialSummary:
    """`summary` with the cost metrics that its throughput and the candidate's price give; as it is without a price.
    Measured on one of `parts` equal parts of a machine, its share of the price."""
    price = price_of(cost, candidate)
    if price is None:
        return summary
    if parts > 1:
        share = f"{price.origin}, for one of {parts} parts of the machine"
        price = replace(price, usd_per_hour=price.usd_per_hour / parts, origin=share)
    costs = {}
    for name, source, amount, unit in _MADE_FROM:
        rate = summary.metrics.get(source)
        if rate is not None and rate.value > 0:
            costs[name] = _cost(rate, price, amount, unit)
    return replace(summary, metrics={**summary.metrics, **costs})


def _cost(rate: Metric, price: Price, amount: float, unit: str) -> Metric:
    """The interval is the rate's, turned over: only the throughput is uncertain here, the price is not."""
    usd = price.usd_per_hour / SECONDS_PER_HOUR * amount
    return Metric(
        value=usd / rate.value,
        unit=unit,
        estimator=f"{price.usd_per_hour:g} USD/h over the measured rate ({rate.estimator})",
        method=rate.method,
        n=rate.n,
        low=None if rate.high is None else usd / rate.high,
        high=None if not rate.low else usd / rate.low,
        note="; ".join(part for part in (f"price: {price.origin}", rate.note) if part),
    )


def require_prices(scenario: Scenario, where: str) -> None:
    """Raises ScenarioError when a cost is asked for, or a budget set, and a block has no price."""
    asked = [name for name in (*(o.metric for o in scenario.objectives), *scenario.constraints) if name in COSTS]
    has_budget = scenario.cost is not None and scenario.cost.max_cost_usd is not None
    for index, block in enumerate(scenario.space):
        is_endpoint = traits(block.engine).is_rented
        if not asked and not (has_budget and is_endpoint):
            continue
        for instance in block.options.get("instance", (None,)) if is_endpoint else (None,):
            options = {"instance": instance} if instance is not None else {}
            for price in block.options.get("usd_per_hour", (None,)):
                given = options if price is None else {**options, "usd_per_hour": price}
                _require_price(scenario.cost, Candidate(block=index, engine=block.engine, options=given), where, asked)


COSTS = tuple(name for name, *_ in _MADE_FROM)


def _require_price(cost: Cost | None, candidate: Candidate, where: str, asked: list[str]) -> None:
    what = asked[0] if asked else "cost.max_cost_usd"
    try:
        price = price_of(cost, candidate)
    except EngineError as error:
        raise ScenarioError(f"{where}: {what}: {error}; or give its price in cost.prices") from None
    if price is None:
        named = candidate.options.get("instance")
        advice = (
            f"{{prices: {{{named}: 0.25}}}}" if named else "{instance: ml.g5.12xlarge} or cost: {usd_per_hour: 7.09}"
        )
        raise ScenarioError(
            f"{where}: {what} needs a price, and none is known for space.{candidate.block} ({candidate.engine}"
            f"{f', {named}' if named else ''}); write cost: {advice}"
        )
