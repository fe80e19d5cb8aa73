"""A row of the table of metrics: what a metric means, its names, its unit, and where a reader sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["minimize", "maximize"]

View = Literal["brief", "answer", "engines", "compared", "aside", "deployed", "probe", "file"]
"""Where a metric is shown, beside the result table: in a sentence about a candidate, in the answer of tune, recommend
and report, among engines side by side, in a separate table where runs are compared or with the others there, beside
a deployment's, for each probe of a rate search, in the comment of a written serving.properties."""

_WORDS = {
    "p50": "P50", "p90": "P90", "p95": "P95", "p99": "P99", "p999": "P99.9", "ttft": "first token",
    "ttfo": "first output token",
    "itl": "between tokens", "tpot": "per output token", "gpu": "GPU", "cpu": "CPU", "util": "utilisation",
}  # fmt: skip
_UNIT_ENDINGS = ("_ms", "_rps", "_mib", "_w", "_j")


@dataclass(frozen=True, slots=True)
class MetricDef:
    """What a metric means and where it is shown.

    `better` is the better direction; `source` states which part of the trial holds it. Three names, made from `name`
    where they are not given: `title` stands alone ('Latency P50'), `short` in a sentence, `heading` over a column,
    with the unit. `column` is its priority in the result table: the higher, the earlier it is left out; None: none.
    `refines` names the metric beside which it is shown, only where it differs.
    """

    name: str
    unit: str
    better: Direction
    help: str
    source: Literal["load", "quality"] = "load"
    title: str = ""
    short: str = ""
    heading: str = ""
    column: int | None = None
    refines: str = ""
    shown_in: tuple[View, ...] = ()

    def __post_init__(self) -> None:
        title = self.title or title_of(self.name)
        short = self.short or (title if title[1:2].isupper() else title[:1].lower() + title[1:])
        unit = "" if self.unit in ("frac", "1") else f" ({self.unit})"
        heading = self.heading or short[:1].upper() + short[1:] + unit
        for field, value in (("title", title), ("short", short), ("heading", heading)):
            object.__setattr__(self, field, value)


def title_of(name: str) -> str:
    """'gpu_power_w' -> 'GPU power'."""
    bare = next((name.removesuffix(end) for end in _UNIT_ENDINGS if name.endswith(end)), name)
    words = " ".join(_WORDS.get(word, word) for word in bare.split("_") if word != "frac")
    return words[:1].upper() + words[1:]
