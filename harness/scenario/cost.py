"""The cost part of a scenario: prices, and a budget that stops a search before it is exceeded."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from harness.scenario.fields import Strict, Word, expected

Usd = Annotated[float, Field(gt=0.0)]


class Cost(Strict):
    """Prices of what serves. A trial on this machine costs what `instance` or `usd_per_hour` states."""

    instance: Annotated[Word | None, Field(description="the instance that a local run stands for")] = None
    usd_per_hour: Annotated[Usd | None, Field(description="its price, instead of the catalogue's")] = None
    prices: Annotated[dict[Word, Usd], Field(description="USD per hour of instances, over the catalogue's")] = Field(
        default_factory=dict
    )
    max_cost_usd: Annotated[Usd | None, Field(description="endpoints of the whole search may cost this much")] = None

    @model_validator(mode="after")
    def _is_not_empty(self) -> Cost:
        if self.instance is None and self.usd_per_hour is None and not self.prices and self.max_cost_usd is None:
            raise expected("instance, usd_per_hour, prices or max_cost_usd", "none of them", "remove cost or fill it")
        return self
