"""A report's levels of load within one launch: rates of a search for the largest, a sweep, or a list of loads."""

from __future__ import annotations

from collections.abc import Sequence

from harness.measure.metrics import metric_row
from harness.records import Probe, Trial
from harness.report.content.run_summary import Story
from harness.report.content.sections import Cell, Head, Section
from harness.report.wording.numbers import ABSENT, number
from harness.report.wording.titles import metric_title
from harness.wording import label

SEARCH_NOTE = "One window per rate; the largest that held is the answer."
SWEEP_NOTE = (
    "Every level in one launch, the smallest first. The knee is the level with the largest throughput per latency P50 "
    "(Kleinrock's power, 1979): below it the engine has time left, above it requests mostly wait. '*' marks the level "
    "whose numbers stand in the other tables."
)

LIST_NOTE = "Every load in one launch, in this order. '*' marks the one whose numbers stand in the other tables."
_NOTES = {"Load levels": SWEEP_NOTE, "Loads": LIST_NOTE, "Rates tried": SEARCH_NOTE}


def levels(story: Story) -> Section | None:
    """Every level of the chosen candidate (else of the first that has any)."""
    tried = [trial for trial in story.run.trials if trial.probes]
    if not tried:
        return None
    trial = next((one for one in tried if one.candidate.candidate_id == story.chosen_id), tried[0])
    probes = sorted(trial.probes, key=_level_order)
    names = list(dict.fromkeys(name for probe in probes for name in probe.values))
    of_sweep, of_list = is_sweep(trial), is_list(trial)
    best = knee(probes) if of_sweep else None
    heads = (
        Head(title=_level_title(probes[0]), is_number=not of_list),
        Head(title="Held"),
        *(Head(title=metric_title(name, _unit_of(name)), is_number=True) for name in names),
        Head(title="Remark" if of_sweep else "What broke"),
    )
    rows = tuple(
        (
            Cell(text=_level_text(probe, of_sweep), sort=_level_order(probe), trial_id=trial.trial_id),
            Cell(text="yes" if probe.is_held else "no"),
            *(_value_cell(name, probe.values.get(name)) for name in names),
            Cell(text="; ".join(filter(None, ("knee" if probe is best else "", probe.reason)))),
        )
        for probe in probes
    )
    title = "Load levels" if of_sweep else "Loads" if of_list else "Rates tried"
    note = f"Trial {trial.trial_id}: {label(trial.candidate)}. {_NOTES[title]}"
    return Section(key="rates", title=title, heads=heads, rows=rows, notes=(note,))


def is_sweep(trial: Trial) -> bool:
    """Whether the levels were the scenario's own, not those of a search for the largest rate."""
    return (
        bool(trial.probes) and not is_list(trial) and (trial.summary is None or "load_level" in trial.summary.metrics)
    )


def is_list(trial: Trial) -> bool:
    """Whether the levels were loads of the scenario's list, each with a name."""
    return any(probe.load for probe in trial.probes)


def knee(probes: Sequence[Probe]) -> Probe | None:
    """The level with the largest throughput per latency (Kleinrock, Power and deterministic rules of thumb for
    probabilistic problems in computer communications, 1979, with the median as the latency); None without either."""
    powers = [(power, probe) for probe in probes if (power := _power(probe)) > 0]
    return max(powers, key=lambda pair: pair[0])[1] if powers else None


def _power(probe: Probe) -> float:
    rate, wait = probe.values.get("throughput_rps", 0.0), probe.values.get("latency_p50_ms", 0.0)
    return rate / wait if wait > 0 else 0.0


def _level_title(probe: Probe) -> str:
    if probe.load:
        return "Load"
    return "Users" if probe.users is not None else "Rate (requests/s)"


def _level_order(probe: Probe) -> float:
    """Loads of a list have no order but that in which they were measured."""
    return probe.number if probe.load else probe.level.value


def _level_text(probe: Probe, of_sweep: bool) -> str:
    if probe.load:
        return f"{probe.load} *" if probe.is_own else probe.load
    value = f"{probe.level.value:.10g}" if of_sweep else number(probe.level.value)
    return f"{value} *" if of_sweep and probe.is_own else value


def _value_cell(name: str, value: float | None) -> Cell:
    if value is None:
        return Cell(text=ABSENT)
    scale = 100 if _unit_of(name) == "frac" else 1
    return Cell(text=number(scale * value), sort=value)


def _unit_of(name: str) -> str:
    row = metric_row(name)
    return row.unit if row is not None else ""
