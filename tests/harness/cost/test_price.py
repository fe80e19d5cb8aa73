"""Cost as a metric: the published row's arithmetic, intervals turned over, whose price wins, and the budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engines.api import EngineSpec
from harness.choose.goals import goals_of
from harness.cost.price import price_of, require_prices, with_cost
from harness.cost.spending import Spending
from harness.errors import ScenarioError
from harness.records import Candidate, Metric, Trial, TrialSummary
from harness.scenario.cost import Cost
from harness.scenario.load import load_scenario

LOCAL = Candidate(block=0, engine="t5")
ENDPOINT = Candidate(block=0, engine="sagemaker", options={"instance": "ml.g5.12xlarge"})


def _summary(inputs_per_s: float, low: float | None = None, high: float | None = None) -> TrialSummary:
    rate = Metric(value=inputs_per_s, unit="inputs/s", estimator="rate", n=100, low=low, high=high)
    return TrialSummary(metrics={"throughput_inputs_per_s": rate, "output_tokens_per_s": replace(rate, value=1000.0)})


def test_the_published_row_costs_what_its_numbers_say() -> None:
    """Four prompts in 327.39 ms on ml.g5.12xlarge at 7.09 USD/h: 0.161 USD per 1,000."""
    summary = with_cost(_summary(4 / 0.32739), Cost(instance="ml.g5.12xlarge"), LOCAL)
    assert summary.metrics["cost_usd_per_1k_prompts"].value == pytest.approx(0.1612, abs=5e-5)
    assert summary.metrics["cost_usd_per_mtok"].value == pytest.approx(7.09 / 3600 / 1000 * 1e6)


def test_the_interval_is_the_rate_s_turned_over() -> None:
    cost = with_cost(_summary(10, 8, 20), Cost(usd_per_hour=3.6), LOCAL).metrics["cost_usd_per_1k_prompts"]
    assert (cost.low, cost.value, cost.high) == (
        pytest.approx(0.05), pytest.approx(0.1), pytest.approx(0.125),
    )  # fmt: skip
    assert cost.n == 100


def test_a_rate_bounded_on_one_side_bounds_the_cost_on_the_other() -> None:
    cost = with_cost(_summary(10, 0.0, None), Cost(usd_per_hour=3.6), LOCAL).metrics["cost_usd_per_1k_prompts"]
    assert (cost.low, cost.high) == (None, None)


def test_without_a_price_there_is_no_cost() -> None:
    assert "cost_usd_per_1k_prompts" not in with_cost(_summary(10), None, LOCAL).metrics


@pytest.mark.parametrize(
    ("cost", "candidate", "usd", "source"),
    [
        (None, ENDPOINT, 7.09, "catalogue"),
        (Cost(prices={"ml.g5.12xlarge": 5.0}), ENDPOINT, 5.0, "scenario"),
        (Cost(instance="ml.g5.12xlarge", usd_per_hour=6.0), ENDPOINT, 6.0, "scenario"),
        (Cost(instance="ml.g5.xlarge", usd_per_hour=1.0), ENDPOINT, 7.09, "catalogue"),
        (Cost(usd_per_hour=9.0), replace(ENDPOINT, options={**ENDPOINT.options, "usd_per_hour": 4.0}), 4.0, "option"),
        (None, replace(ENDPOINT, options={**ENDPOINT.options, "instance_count": 3}), 3 * 7.09, "catalogue"),
        (Cost(instance="ml.g5.xlarge"), LOCAL, 1.4084, "catalogue"),
        (Cost(usd_per_hour=2.0), LOCAL, 2.0, "scenario"),
    ],
)
def test_whose_price_wins(cost: Cost | None, candidate: Candidate, usd: float, source: str) -> None:
    price = price_of(cost, candidate)
    assert price is not None
    assert price.source == source
    assert price.usd_per_hour == pytest.approx(usd)


SCENARIO = """
name: cost
space:
  - {{engine: sagemaker, options: {{instance: {instance}}}}}
objectives: [{{metric: cost_usd_per_1k_prompts, goal: minimize}}]
{cost}
"""


def _scenario(tmp_path: Path, instance: str, cost: str = "") -> Path:
    path = tmp_path / "cost.yaml"
    path.write_text(SCENARIO.format(instance=instance, cost=cost))
    return path


def test_another_price_changes_the_ranking(tmp_path: Path) -> None:
    goals = goals_of(load_scenario(_scenario(tmp_path, "[ml.g5.xlarge, ml.g5.12xlarge]")))
    small, large = (replace(ENDPOINT, options={"instance": name}) for name in ("ml.g5.xlarge", "ml.g5.12xlarge"))

    def cheaper(cost: Cost | None) -> Candidate:
        trials = [
            Trial(trial_id="t", number=1, candidate=c, outcome="ok", summary=with_cost(_summary(rate), cost, c))
            for c, rate in ((small, 4.0), (large, 12.0))
        ]
        return min(trials, key=goals.costs).candidate

    assert cheaper(None) == small
    assert cheaper(Cost(prices={"ml.g5.12xlarge": 3.5})) == large


@pytest.mark.parametrize(
    ("instance", "cost", "message"),
    [
        ("ml.m5.xlarge", "", "needs a price, and none is known for space.0 (sagemaker, ml.m5.xlarge)"),
        ("ml.g5.13xlarge", "", "unknown here; did you mean"),
    ],
)
def test_a_cost_without_a_price_is_refused_before_the_search(
    tmp_path: Path, instance: str, cost: str, message: str
) -> None:
    scenario = load_scenario(_scenario(tmp_path, instance, cost))
    with pytest.raises(ScenarioError) as caught:
        require_prices(scenario, "cost.yaml")
    assert message in str(caught.value)


def test_a_user_s_price_is_enough(tmp_path: Path) -> None:
    require_prices(load_scenario(_scenario(tmp_path, "ml.m5.xlarge", "cost: {prices: {ml.m5.xlarge: 0.23}}")), "x")


def test_an_empty_or_negative_cost_block_is_refused_with_its_line(tmp_path: Path) -> None:
    for cost in ("cost: {}", "cost: {usd_per_hour: -1}", "cost: {price: 2}"):
        with pytest.raises(ScenarioError, match=r"cost\.yaml:6"):
            load_scenario(_scenario(tmp_path, "ml.g5.xlarge", cost))


def test_the_budget_stops_before_the_endpoint_that_would_exceed_it() -> None:
    spending = Spending(Cost(max_cost_usd=2.0), load_s=15.0)
    assert spending.why_stop(ENDPOINT) is None  # 615 s at 7.09 USD/h: 1.21
    spending.note(ENDPOINT, 600.0)
    assert spending.spent_usd == pytest.approx(7.09 / 6)
    assert "cost budget: 1.18 of 2.00 USD used, the next endpoint would cost about 1.18" in str(
        spending.why_stop(ENDPOINT)
    )
    assert spending.why_stop(LOCAL) is None


def test_the_budget_counts_the_endpoints_under_way() -> None:
    spending = Spending(Cost(max_cost_usd=2.0), load_s=15.0)
    assert spending.why_stop(ENDPOINT, [LOCAL, LOCAL]) is None
    assert "0.00 of 2.00 USD used and about 1.21 under way, the next" in str(spending.why_stop(ENDPOINT, [ENDPOINT]))


def test_what_is_left_bounds_the_next_endpoint_itself() -> None:
    spending = Spending(Cost(max_cost_usd=2.0, prices={"ml.g5.12xlarge": 6.0}), load_s=15.0)
    spending.note(ENDPOINT, 600.0)
    limited = spending.limited(EngineSpec(engine="sagemaker", model_dir=Path(), options=ENDPOINT.options), ENDPOINT)
    assert limited.options["max_cost_usd"] == pytest.approx(1.0)
    assert limited.options["usd_per_hour"] == 6.0


def test_failed_launches_of_an_earlier_start_are_counted_as_whole() -> None:
    spending = Spending(Cost(max_cost_usd=2.0), load_s=15.0)
    spending.note_stored(Trial(trial_id="t", number=1, candidate=ENDPOINT, outcome="launch_failed"))
    assert spending.spent_usd == pytest.approx(7.09 * 615 / 3600)
