"""What calibration finds and costs on simulated machines, and how much sooner a search ends on several nodes.

    python -m tests.bench.machines.bench_machines --seeds 200 --out results/published/bench-machines
    python -m tests.bench.machines.bench_machines --nodes 2 4 8 --out results/published/bench-machines
    python -m tests.bench.machines.bench_machines --kills 50 --on dask --out results/published/bench-machines

The first simulates and measures no time: a busy machine changes nothing. The second starts real nodes of Dask, whose
trials sleep for 20 s: run it on a machine that does nothing else. The third kills nodes, daemons, workers and searches.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from harness.measure.machine.facts import machine_facts
from tests.bench.machines.kills import killed, kills_table
from tests.bench.machines.replayed import replay_rows, replay_table
from tests.bench.machines.simulation import LAWS, ODD, Law, Outcome, run
from tests.bench.machines.speed_up import measured, speed_table

OTHER_SEEDS = 50
"""Searches of a law for each column but the one that counts machines set aside."""


def row(law: Law, seeds: int) -> dict[str, object]:
    """Mean losses without calibration and finalists, with finalists, with both, and what the last set aside."""
    few = min(seeds, OTHER_SEEDS)
    raw = _outcomes(law, few, calibrates=False, finalists=0)
    confirmed = _outcomes(law, few, calibrates=False, finalists=3)
    both = _outcomes(law, seeds, calibrates=True, finalists=3)
    return {
        "law": law.name,
        "seeds": seeds,
        "seeds_of_the_others": few,
        "raw_loss_frac": round(fmean(each.loss_frac for each in raw), 5),
        "finalists_loss_frac": round(fmean(each.loss_frac for each in confirmed), 5),
        "calibrated_loss_frac": round(fmean(each.loss_frac for each in both), 5),
        "odd_set_aside": sum(not each.is_odd_ranked for each in both),
        "good_set_aside": sum(any(name != ODD for name in each.set_aside) for each in both),
        "trials": round(fmean(each.trials for each in both), 1),
        "calibration_launches": round(fmean(each.calibrations for each in both), 1),
    }


def _outcomes(law: Law, seeds: int, *, calibrates: bool, finalists: int) -> list[Outcome]:
    with tempfile.TemporaryDirectory() as folder:
        return [run(law, seed, Path(folder), calibrates=calibrates, finalists=finalists) for seed in range(seeds)]


def table(found: Sequence[dict[str, object]]) -> str:
    """The rows as a Markdown table, with what they are."""
    lines = [
        "# Four machines, one of which differs",
        "",
        "Searches over all 48 candidates of a formula, 4 % of noise on each launch, three finalists three times each.",
        "Loss: how much worse than the best the recommended candidate truly is, mean. 'odd' counts searches that set",
        "the differing machine aside, 'good' those that set another aside; the last loss is of as many searches, the",
        f"other two of {found[0]['seeds_of_the_others']}.",
        "Written by `make bench-machines` (tests/bench/machines).",
        "",
        "| one machine is slower by | loss: raw | finalists on one machine | calibrated as well | odd | good | trials "
        "| calibration launches |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in found:
        losses = (one["raw_loss_frac"], one["finalists_loss_frac"], one["calibrated_loss_frac"])
        shown = (
            one["law"],
            *(f"{loss:.2%}" for loss in losses),
            *(f"{one[name]}/{one['seeds']}" for name in ("odd_set_aside", "good_set_aside")),
            one["trials"],
            one["calibration_launches"],
        )
        lines.append(f"| {' | '.join(map(str, shown))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, and write it with its rows to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--nodes", type=int, nargs="*", help="measure the speed-up on so many nodes instead")
    parser.add_argument("--kills", type=int, help="kill so many of each kind instead, with -9 at random moments")
    parser.add_argument("--on", choices=("ray", "dask"), default="dask", help="the cluster of --kills")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end --kills after so long, with fewer")
    parser.add_argument("--replay", type=int, help="replay so many seeds on 1, 2, 4 and 8 machines in memory instead")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.nodes:
        speeds = [measured(count) for count in (1, *given.nodes)]
        _write(given.out, "speed-up", speeds, speed_table(speeds))
        return
    if given.kills:
        found = killed(given.on, given.kills, given.minutes)
        _write(given.out, f"kills-{given.on}", [asdict(found)], kills_table(given.on, found))
        raise SystemExit(1 if found.wrong else 0)
    if given.replay:
        replays = replay_rows(given.replay)
        _write(given.out, "replay", replays, replay_table(replays))
        return
    rows = []
    for law in LAWS:
        rows.append(row(law, given.seeds))
        print(json.dumps(rows[-1]), flush=True)
    _write(given.out, "simulation", rows, table(rows))


def _write(folder: Path | None, name: str, rows: Sequence[dict[str, object]], shown: str) -> None:
    print(shown)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"cpu": machine_facts()["cpu_model"], "rows": list(rows)}
        (folder / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
        (folder / f"{name}.md").write_text(shown)


if __name__ == "__main__":
    main()
