"""How well and how soon the search finds the best of programmed laws, beside plain samplers and a hill climb.

    python -m tests.bench.tuner.bench_tuner --seeds 50 --out results/published/bench-tuner

Nothing is launched and no time is measured: a trial costs what the law says, so a busy machine changes nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from harness.measure.machine.facts import machine_facts
from tests.bench.tuner.laws import LAWS, Law, plan
from tests.bench.tuner.replay import CONTESTANTS, TRIALS, Outcome, run

HEAD = (
    "| law | contestant | median loss | within 5 % | 10 % or more lost | launches | ended early | missed so | minutes "
    "| minutes to within 5 % |"
)


def row(law: Law, contestant: str, seeds: int) -> dict[str, object]:
    """Medians and counts over `seeds` searches of `law` by `contestant`."""
    outcomes: list[Outcome] = [run(law, contestant, seed) for seed in range(seeds)]
    losses = [each.loss_frac for each in outcomes]
    found = statistics.median([each.found_min for each in outcomes])
    return {
        "law": law.name,
        "contestant": contestant,
        "median_loss_frac": round(statistics.median(losses), 4),
        "within_5_percent": sum(loss <= 0.05 for loss in losses),
        "lost_10_percent": sum(loss >= 0.10 for loss in losses),
        "median_launches": statistics.median([each.launches for each in outcomes]),
        "median_ended": statistics.median([each.ended for each in outcomes]),
        "missed": sum(each.is_missed for each in outcomes),
        "median_minutes": round(statistics.median([each.minutes for each in outcomes]), 1),
        "median_found_min": round(found, 1) if found < float("inf") else None,
        "seeds": seeds,
    }


def _named_row(law: str, contestant: str, seeds: int) -> dict[str, object]:
    return row(next(each for each in LAWS if each.name == law), contestant, seeds)


def table(found: Sequence[dict[str, object]]) -> str:
    """The rows as a Markdown table, with what they are."""
    seeds = found[0]["seeds"]
    shares = ", ".join(f"{law.name} {law.good_frac():.1%}" for law in LAWS)
    lines = [
        "# The search on six programmed laws",
        "",
        f"{seeds} seeds each; {plan().size} candidates, {TRIALS} trials at most, then two finalists four times each",
        "(the hill climb has none). Written by `make bench-tuner`; the formulas are in tests/bench/tuner/laws.py.",
        "Missed so: searches in which a candidate that ended early is truly 2 % better than what they recommend.",
        f"Nothing was launched: minutes are what the laws charge. Candidates within 5 % of the best: {shares}.",
        f"Computed on {machine_facts()['cpu_model']}.",
        "",
        HEAD,
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in found:
        first = "never" if one["median_found_min"] is None else f"{one['median_found_min']}"
        shown = (
            one["law"],
            one["contestant"],
            f"{one['median_loss_frac']:.1%}",
            f"{one['within_5_percent']}/{seeds}",
            f"{one['lost_10_percent']}/{seeds}",
            f"{one['median_launches']:g}",
            f"{one['median_ended']:g}",
            f"{one['missed']}/{seeds}",
            one["median_minutes"],
            first,
        )
        lines.append(f"| {' | '.join(map(str, shown))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every contestant on every law, print the table, write it where `--out` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.seeds < 1:
        parser.error(f"--seeds: expected 1 or more, got {given.seeds}")
    asked = [(law.name, name, given.seeds) for law in LAWS for name in CONTESTANTS]
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(_named_row, *zip(*asked, strict=True)))
    print(table(found))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "table.md").write_text(table(found))
        (given.out / "rows.json").write_text("[\n" + ",\n".join(json.dumps(one) for one in found) + "\n]\n")


if __name__ == "__main__":
    main()
