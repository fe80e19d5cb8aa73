"""How well and how soon the search finds the best of programmed laws, beside plain samplers, other tools, a hill climb.

    python -m tests.bench.tuner.bench_tuner --seeds 50 --out results/published/bench-tuner
    python -m tests.bench.tuner.bench_tuner --landscape results/published/landscapes/llamacpp
    python -m tests.bench.tuner.bench_tuner --pool results/published/bench-tuner results/published/bench-tuner/llamacpp

Nothing is launched and no time is measured: a trial costs what the law or the recorded landscape says, so a busy
machine changes nothing. Tools that are not installed are left out (`pip install -e '.[bench-tuner]'` installs them).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.errors import EnvironmentFault
from harness.measure.machine.facts import machine_facts
from harness.measure.statistics.distributions import wilson_interval
from harness.tune.probe import LEAST_LOAD_FRAC
from tests.bench.tuner.laws import LAUNCH_S, LAWS, LOAD_S, QUALITY_S, TRIALS, plan
from tests.bench.tuner.recorded import Ground, Recorded, recorded
from tests.bench.tuner.replay import BASELINE, CONTESTANTS, Outcome, run
from tests.bench.tuner.rivals import RIVALS

Row = dict[str, Any]
REDEPLOYED, ROWS = "lost_on_redeployment", "rows.json"
COLUMNS = (
    ("median loss", "median_loss_frac"), ("within 5 %", "within_5_percent"), ("10 % or more lost", "lost_10_percent"),
    ("launches", "mean_launches"), ("out of memory", "mean_out_of_memory"), ("ended early", "mean_ended"),
    ("measured whole after all", "mean_reopened"),
    ("better, but ended", "missed"), ("and never whole", "lost_unmeasured"), ("minutes", "mean_minutes"),
    ("minutes to within 5 %", "median_found_min"), ("lost >= 10 % on redeployment", REDEPLOYED),
)  # fmt: skip
"""Title and key of each column behind law, contestant and seeds; REDEPLOYED is there for landscapes alone."""
WHOLE, ENOUGH, RACING = "GP, all trials", "dyno (GP, ends when enough)", "dyno, racing"
PROBES, HALF = "dyno, racing and probes", "dyno, half the clock"
COSTS_S = ((5.0, 60.0), (LAUNCH_S, LOAD_S), (90.0, 125.0), (25.0, 20.0), (60.0, 20.0))
"""Launch and whole load of a trial, for which it is stated what probes save: mostly load, those of the laws, a decoder
of 7 to 9 billion weights, and mostly launch twice."""
SLOW = ("SMAC3", "SMAC3, in parts", "Optuna GP")
"""Contestants of which a search takes some seconds."""
LEVELS = 3
"""Levels of load, where the saving of one launch for all of them is stated."""


def row(law: Ground, contestant: str, seeds: int) -> Row:
    """Medians, means and counts over `seeds` searches of `law` by `contestant`."""
    outcomes: list[Outcome] = [run(law, contestant, seed) for seed in range(seeds)]
    losses = [each.loss_frac for each in outcomes]
    found = statistics.median([each.found_min for each in outcomes])
    redeployed = [each.redeployed_frac for each in outcomes if each.redeployed_frac is not None]
    return {
        "law": law.name,
        "contestant": contestant,
        "seeds": seeds,
        "median_loss_frac": round(statistics.median(losses), 4),
        "within_5_percent": sum(loss <= 0.05 for loss in losses),
        "lost_10_percent": sum(loss >= 0.10 for loss in losses),
        "mean_launches": _mean(each.launches for each in outcomes),
        "mean_out_of_memory": _mean(each.out_of_memory for each in outcomes),
        "mean_ended": _mean(each.ended for each in outcomes),
        "mean_reopened": _mean(each.reopened for each in outcomes),
        "missed": sum(each.is_missed for each in outcomes),
        "lost_unmeasured": sum(each.is_lost for each in outcomes),
        "mean_minutes": _mean(each.minutes for each in outcomes),
        "median_found_min": round(found, 1) if found < float("inf") else None,
        REDEPLOYED: sum(each >= 0.10 for each in redeployed) if redeployed else None,
        "mean_launch_s": _mean(each.launch_s for each in outcomes),
        "judged_each_min": _mean(each.judged_each_min for each in outcomes),
        "judged_once_min": _mean(each.judged_once_min for each in outcomes),
        "losses": [round(loss, 4) for loss in losses],
        "chances": [(round(each.chance, 4), each.is_better) for each in outcomes if each.chance is not None],
    }


def _mean(values: Iterator[float]) -> float:
    return round(statistics.fmean(values), 2)


def _named_row(ground: str | Path, contestant: str, seeds: int) -> Row:
    return row(_ground(ground), contestant, seeds)


@cache
def _ground(named: str | Path) -> Ground:
    """The law of that name, or the landscape in that folder. Raises EnvironmentFault."""
    return recorded(named) if isinstance(named, Path) else next(each for each in LAWS if each.name == named)


def table(found: Sequence[Row], left_out: Sequence[str] = (), landscape: Recorded | None = None) -> str:
    """The rows as Markdown, with what they are and what follows from them; those of a `landscape` where it is one."""
    columns = [pair for pair in COLUMNS if landscape is not None or pair[1] != REDEPLOYED]
    heads = ["law" if landscape is None else "landscape", "contestant", "seeds", *(title for title, _ in columns)]
    keys = ["law", "contestant", "seeds", *(key for _, key in columns)]
    lines = [
        *(_of_laws() if landscape is None else _of_landscape(landscape)),
        "'Better, but ended': searches in which a candidate that ended early is truly 2 % better than the recommended",
        "one; 'and never whole': it was not measured whole afterwards either. 'Launches known': from ten repeated",
        "launches in an earlier run. Loss, and minutes to within 5 %: medians; launches, ended and minutes: means.",
        *([f"Left out: {'; '.join(left_out)}."] if left_out else []),
        "",
        *_markdown(heads, [[_cell(key, one) for key in keys] for one in found], 2),
        "",
        *_savings(found, is_law=landscape is None),
        *_in_half(found),
        *(_by_cost(found) if landscape is None else []),
        *_chances(found),
    ]
    return "\n".join(lines) + "\n"


def _of_laws() -> list[str]:
    shares = ", ".join(f"{law.name} {law.good_frac():.1%}" for law in LAWS)
    return [
        "# The search on six programmed laws",
        "",
        f"{plan().size} candidates, {TRIALS} trials at most, then two finalists four times each (the hill climb has",
        "none). Written by `make bench-tuner`; the formulas are in tests/bench/tuner/laws.py. Seeds are 0, 1, 2 ...",
        f"Nothing was launched: a launch is charged {LAUNCH_S:g} s and a whole load {LOAD_S:g} s, on whatever machine.",
        f"Candidates within 5 % of the best: {shares}.",
        f"Computed on {machine_facts()['cpu_model']}.",
        "Out of memory: of the crash region alone, where 31 % of the candidates need more than there is; all but the",
        "hill climb, Optuna GP, WilcoxonPruner and SMAC3 read the peaks of launches.",
    ]


def _of_landscape(found: Recorded) -> list[str]:
    return [
        f"# The search on the recorded landscape {found.name}",
        "",
        f"{found.plan.size} candidates, {TRIALS} trials at most, then two finalists four times each (the hill climb",
        "has none). Written by `make bench-tuner BENCH='--landscape ...'`, replayed by tests/bench/tuner/recorded.py:",
        "a candidate truly is the mean of its two launches, and a launch in a search that times a drawn launch effect.",
        f"Seeds are 0, 1, 2 ... A trial costs what was measured; all candidates once: {found.total_min():.1f} minutes.",
        f"Candidates within 5 % of the best: {found.good_frac():.1%}. The objective is {found.metric}.",
        f"Recorded on {found.found.machine['cpu_model']}.",
        "'Lost on redeployment': recommendations that are 10 % or more worse in one launch more than the search",
        f"measured; by luck alone {found.unlucky_frac(0.1):.0%} of launches are that much worse than their candidate.",
    ]


def _cell(key: str, one: Row) -> str:
    value = one[key]
    if key == "mean_out_of_memory" and value is not None:
        return f"{value:.2f} ({value / one['mean_launches']:.1%})"
    if value is None and key != "median_found_min":
        return "not counted"
    if key == "median_found_min":
        return "never" if value is None else f"{value:g}"
    if key == "median_loss_frac":
        return f"{value:.1%}"
    return f"{value:.1f}" if key.startswith("mean_") else str(value)


def _savings(found: Sequence[Row], *, is_law: bool) -> Iterator[str]:
    """What each part of the search saves, where all of its contestants ran."""
    by_name = {(one["law"], one["contestant"]): one for one in found}
    names = ("random", WHOLE, ENOUGH, RACING, PROBES)
    laws = [law for law in dict.fromkeys(one["law"] for one in found) if all((law, name) in by_name for name in names)]
    if not laws:
        return
    yield from (
        "## What each part saves",
        "",
        f"Minutes of a whole search by GP whose trials are each judged{f' ({QUALITY_S:g} s)' if is_law else ''}, and",
        f"what is saved of it: by judging each numeric path{' (here a dtype)' if is_law else ''} once, by ending when",
        "next trials should gain too little, by racing, and by probes in it. Sampler: the loss that random sampling",
        f"leaves beyond GP's with the same trials. One launch for {LEVELS} levels of load saves the launches of",
        f"{LEVELS - 1} of {LEVELS} searches that measure one level each.",
        "",
    )
    shared_title = f"one launch, {LEVELS} levels"
    heads = ["law", "minutes", "quality once", "ends when enough", "racing", "probes", shared_title, "sampler (loss)"]
    rows = []
    for law in laws:
        random, whole, enough, racing, probes = (by_name[law, name] for name in names)
        minutes = whole["mean_minutes"] + whole["judged_each_min"]
        launches_min = (LEVELS - 1) * whole["mean_launches"] * whole["mean_launch_s"] / 60
        saved = (
            whole["judged_each_min"] - whole["judged_once_min"],
            whole["mean_minutes"] - enough["mean_minutes"],
            enough["mean_minutes"] - racing["mean_minutes"],
            racing["mean_minutes"] - probes["mean_minutes"],
        )
        shares = [f"{each:.1f} ({each / minutes:.0%})" for each in saved]
        shared = f"{launches_min:.1f} of {LEVELS * minutes:.1f} ({launches_min / LEVELS / minutes:.0%})"
        gained = f"{100 * (random['median_loss_frac'] - whole['median_loss_frac']):.1f} points"
        rows.append([law, f"{minutes:.1f}", *shares, shared, gained])
    yield from _markdown(heads, rows, 1)
    yield ""


def _in_half(found: Sequence[Row]) -> Iterator[str]:
    """What is recommended within half of the baseline's clock, beside what the baseline recommends."""
    by_name = {(one["law"], one["contestant"]): one for one in found}
    pairs = [
        (by_name[law, BASELINE], by_name[law, HALF])
        for law in dict.fromkeys(one["law"] for one in found)
        if all("losses" in by_name.get((law, name), {}) for name in (BASELINE, HALF))
    ]
    if not pairs:
        return
    yield from (
        "## Within half of the baseline's clock",
        "",
        "The search with racing and probes, whose max_minutes are half of the clock of the baseline (TPE, all trials,",
        "each judged) with the same seed. As good: searches that lose at most 2 points more than the baseline's.",
        "",
    )
    rows = []
    for base, half in pairs:
        more = [mine - its for mine, its in zip(half["losses"], base["losses"], strict=True)]
        minutes = (base["mean_minutes"] + base["judged_each_min"], half["mean_minutes"] + half["judged_once_min"])
        losses = [f"{statistics.median(one['losses']):.1%}" for one in (base, half)]
        mean = f"{100 * statistics.fmean(more):+.1f} points"
        as_good = f"{sum(each <= 0.02 for each in more)}/{len(more)}"
        shown = (f"{minutes[0]:.1f}", f"{minutes[1]:.1f} ({minutes[1] / minutes[0]:.0%})")
        rows.append([base["law"], *shown, *losses, mean, as_good])
    heads = [
        "law",
        "minutes: baseline",
        "half",
        "median loss: baseline",
        "half",
        "mean loss beside the baseline's",
        "as good",
    ]
    yield from _markdown(heads, rows, 1)
    yield ""


def _by_cost(found: Sequence[Row]) -> Iterator[str]:
    """What probes save beyond racing where trials cost otherwise, over all laws: proposals do not depend on costs."""
    both = [[one for one in found if one["contestant"] == name] for name in (RACING, PROBES)]
    laws = set.intersection(*({one["law"] for one in rows} for rows in both))
    if not laws:
        return
    yield from (
        "## What probes save beyond racing, by what a trial costs",
        "",
        f"Over {len(laws)} laws, of the whole clock of a search by racing; `dyno tune` probes where load takes "
        f"{LEAST_LOAD_FRAC:.0%} or more.",
        "",
    )
    rows = []
    for launch_s, load_s in COSTS_S:
        spent = [sum(_spent_s(one, launch_s, load_s) for one in side if one["law"] in laws) for side in both]
        share, saved = load_s / (launch_s + load_s), 1 - spent[1] / spent[0]
        rows.append([f"{launch_s:g}", f"{load_s:g}", f"{share:.0%}", f"{saved:.1%}"])
    yield from _markdown(["launch (s)", "load (s)", "load of a whole trial", "saved"], rows, 0)
    yield ""


def _spent_s(one: Row, launch_s: float, load_s: float) -> float:
    """Mean seconds of a search whose launches and whole loads cost so much instead of the law's."""
    loads = (60 * one["mean_minutes"] - LAUNCH_S * one["mean_launches"]) / LOAD_S
    return float(launch_s * one["mean_launches"] + load_s * loads)


POOLED = (RACING, PROBES, HALF)
"""Contestants whose failures are counted over all grounds."""


def pooled(found: Sequence[Row]) -> str:
    """Counts over all rows of laws and landscapes, as Markdown."""
    grounds = list(dict.fromkeys(one["law"] for one in found))
    lines = [
        f"# What goes wrong in searches, over {len(grounds)} laws and landscapes",
        "",
        f"{', '.join(grounds)}. Written by `make bench-tuner BENCH='--pool FOLDER...'` from their rows.json.",
        "Better, but ended: a candidate that ended early is truly 2 % better than the recommended one (aim: at most 4",
        "of 450 searches). Redeployment, of recorded landscapes alone: the recommended candidate is 10 % or more worse",
        "in one launch more than the search measured (aim: at most 2 %), with the 95 % interval.",
        "",
    ]
    rows = []
    for name in POOLED:
        mine = [one for one in found if one["contestant"] == name]
        again = [one for one in mine if one.get(REDEPLOYED) is not None]
        count, searches = sum(one[REDEPLOYED] for one in again), sum(one["seeds"] for one in again)
        low, high = wilson_interval(count, searches) if searches else (0.0, 0.0)
        redeployed = f"{count} of {searches} ({low:.1%} to {high:.1%})" if searches else "not recorded"
        counts = [sum(one[key] for one in mine) for key in ("seeds", "missed", "lost_unmeasured")]
        rows.append([name, *map(str, counts), redeployed])
    heads = ["contestant", "searches", "better, but ended", "and never whole", "lost >= 10 % on redeployment"]
    lines += [*_markdown(heads, rows, 1), "", *_chances(found)]
    return "\n".join(lines) + "\n"


def _chances(found: Sequence[Row]) -> Iterator[str]:
    """Whether the chance that is stated of a runner-up is how often it is better, over all searches by racing."""
    stated = [pair for one in found if one["contestant"] == RACING for pair in one["chances"]]
    unsure = [(chance, is_better) for chance, is_better in stated if 0.10 <= chance <= 0.40]
    differ = [(chance, is_better) for chance, is_better in unsure if is_better is not None]
    if not differ:
        return
    better = sum(is_better for _, is_better in differ)
    low, high = wilson_interval(better, len(differ))
    yield from (
        "## The chance of the runner-up",
        "",
        f"Of {len(stated)} searches by racing that state a chance, {len(unsure)} state 10 to 40 %. In "
        f"{len(unsure) - len(differ)} of these both are truly equal; of the",
        f"other {len(differ)}, which state {statistics.fmean(chance for chance, _ in differ):.0%} on average, "
        f"the runner-up is truly better in {better}: {better / len(differ):.0%}, "
        f"95 % interval {low:.0%} to {high:.0%}.",
    )


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join(['---'] * left + ['---:'] * (len(heads) - left))} |"
    yield from (f"| {' | '.join(cells)} |" for cells in rows)


def left_out() -> dict[str, str]:
    """Contestant -> why it cannot be asked here, in one sentence."""
    found = {}
    for name, (_, packages) in RIVALS.items():
        if missing := [each for each in packages if find_spec(each) is None]:
            found[name] = f"{name} needs {' and '.join(missing)}, not installed: pip install -e '.[bench-tuner]'"
    return found


def main() -> None:
    """Measure every contestant on every law, print the table, write it where `--out` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--slow-seeds", type=int, help=f"seeds of {' and '.join(SLOW)}")
    parser.add_argument("--landscape", type=Path, metavar="FOLDER", help="a recorded landscape instead of the laws")
    parser.add_argument("--pool", type=Path, nargs="+", metavar="FOLDER", help="count over rows.json of these instead")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.pool:
        _pool(given.pool, given.out, parser)
        return
    slow = given.seeds if given.slow_seeds is None else given.slow_seeds
    if min(given.seeds, slow) < 1:
        parser.error(f"--seeds, --slow-seeds: expected 1 or more, got {min(given.seeds, slow)}")
    missing = left_out()
    for why in missing.values():
        print(f"left out: {why}", file=sys.stderr)
    names = [name for name in CONTESTANTS if name not in missing]
    try:
        landscape = recorded(given.landscape) if given.landscape is not None else None
    except EnvironmentFault as error:
        parser.error(str(error))
    grounds = [given.landscape] if landscape is not None else [law.name for law in LAWS]
    asked = [(ground, name, slow if name in SLOW else given.seeds) for ground in grounds for name in names]
    found: list[Row] = []
    with ProcessPoolExecutor() as pool:
        for one in pool.map(_named_row, *zip(*asked, strict=True)):
            print(f"{one['law']}, {one['contestant']}: {one['mean_minutes']} min", file=sys.stderr, flush=True)
            found.append(one)
            if given.out is not None:
                _write(given.out, found, table(found, tuple(missing.values()), landscape))
    print(table(found, tuple(missing.values()), landscape))


def _pool(folders: Sequence[Path], out: Path | None, parser: argparse.ArgumentParser) -> None:
    if missing := [str(each) for each in folders if not (each / ROWS).exists()]:
        parser.error(f"--pool: expected folders with {ROWS}, got {', '.join(missing)}")
    text = pooled([one for each in folders for one in json.loads((each / ROWS).read_text())])
    print(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "pooled.md").write_text(text)


def _write(folder: Path, found: Sequence[Row], text: str) -> None:
    """What is known by now: a run that is interrupted leaves its finished rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(text)
    (folder / ROWS).write_text("[\n" + ",\n".join(json.dumps(one) for one in found) + "\n]\n")


if __name__ == "__main__":
    main()
