"""Importance of each axis in a run: the share of the objective's variance that the axis explains on its own.

omega squared of a one-way layout (Hays 1963): (SS_between - (k-1) MS_within) / (SS_total + MS_within), over
log(objective) (plain where a value is not positive), one value per candidate, only candidates that have the axis.
Marginal: a search does not try every combination, so axes share credit, and the shares need not add up to 1.
`chance_frac` is what 95 % of random reorderings of the same values stay below (seeded): a share under it is noise.
Smallest n: MIN_CANDIDATES candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.choose.goals import Objective
from harness.choose.repetitions import Pooled
from harness.report.wording.titles import value_word

MIN_CANDIDATES = 8
"""Below it two or three values decide everything, and 95 % of chance covers nearly the whole range."""
SHUFFLES = 400
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """One axis. `best_level` has the best mean; `n` candidates have the axis, at `levels` values."""

    axis: str
    share_frac: float
    chance_frac: float
    n: int
    levels: int
    best_level: str

    @property
    def is_more_than_chance(self) -> bool:
        """Whether random reorderings hardly ever reach as much."""
        return self.share_frac > self.chance_frac


def importances(everyone: Sequence[Pooled], objective: Objective) -> tuple[Importance, ...]:
    """Every axis that varies, the most important first; empty below MIN_CANDIDATES measured candidates."""
    rows: list[tuple[Mapping[str, object], float]] = []
    for one in everyone:
        metric = one.metric(objective.metric)
        if metric is not None:
            rows.append((one.candidate.axes(), metric.value))
    if len(rows) < MIN_CANDIDATES:
        return ()
    values = np.array([value for _, value in rows])
    costs = np.log(values) if (values > 0).all() else values
    names = sorted({name for axes, _ in rows for name in axes})
    found = [_importance(name, rows, costs, objective) for name in names]
    return tuple(sorted((one for one in found if one is not None), key=lambda one: (-one.share_frac, one.axis)))


def _importance(
    axis: str, rows: Sequence[tuple[Mapping[str, object], float]], costs: Floats, objective: Objective
) -> Importance | None:
    has = [index for index, (axes, _) in enumerate(rows) if axis in axes]
    words = [value_word(rows[index][0][axis]) for index in has]
    levels = sorted(set(words))
    if len(levels) < 2 or len(has) < MIN_CANDIDATES or len(levels) == len(has):
        return None
    codes = np.array([levels.index(word) for word in words])
    mine = costs[has]
    rng = np.random.default_rng(0)
    chance = np.quantile([omega_squared(codes, rng.permutation(mine)) for _ in range(SHUFFLES)], 0.95)
    means = [float(mine[codes == code].mean()) for code in range(len(levels))]
    best = int(np.argmin(means) if objective.is_minimized else np.argmax(means))
    return Importance(
        axis=axis.removeprefix("options."),
        share_frac=omega_squared(codes, mine),
        chance_frac=float(chance),
        n=len(has),
        levels=len(levels),
        best_level=levels[best],
    )


def omega_squared(codes: npt.NDArray[np.int64], values: Floats) -> float:
    """The share of variance between groups, corrected for what groups explain by chance; 0..1."""
    counts = np.bincount(codes).astype(float)
    n, groups = len(values), len(counts)
    total = float(((values - values.mean()) ** 2).sum())
    if total <= 0 or n <= groups:
        return 0.0
    means = np.bincount(codes, weights=values) / counts
    between = float((counts * (means - values.mean()) ** 2).sum())
    within = (total - between) / (n - groups)
    return max(0.0, (between - (groups - 1) * within) / (total + within))
