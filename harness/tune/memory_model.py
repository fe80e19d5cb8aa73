"""The memory of an engine as its own launches showed it: what surely does not fit, and the chance that others do.

The bound rests on whole launches that differ in workers and batch size alone, and is not known before the third of
them. The chance rests on all dtypes together, on launches that ended early too, and is known from the first launch on;
it orders proposals and rules out nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engines.models.memory import VALUE_BYTES
from harness.measure.metrics import metric_of
from harness.records import Candidate, Trial
from harness.tune.failures import LEAST
from harness.tune.implausible import ONE_MACHINE, group_of, ran_out_of_memory
from harness.tune.memory_parts import Explanation, Shape, explanations, least_peak_mib

LAUNCHES = 3
"""Launches of a group from which its memory is known: as many as the model has parts."""
MARGIN_FRAC = 0.05
"""The lower bound is at least this far below the prediction; further where a launch was further from its own."""
REPEATS_FRAC = 0.02
"""How far the peak of a launch may be from what its parts make."""
OTHER_DTYPE_FRAC = 0.25
"""How far an explanation may be off for a dtype that was not launched yet."""
PEAK = "peak_memory_mib"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryModel:
    """The peaks of a group's launches in MiB and what explains them, the best first."""

    explanations: Sequence[Explanation]
    peaks: Mapping[Shape, float]

    @property
    def off_frac(self) -> float:
        """How far the worst launch is from its own prediction."""
        return self.explanations[0].off_frac

    def predicted_mib(self, candidate: Candidate) -> float:
        """The expected peak."""
        return self.explanations[0].peak_mib(candidate)

    def least_mib(self, candidate: Candidate) -> float:
        """The lower bound of the peak, whichever explanation is right, and although peaks vary."""
        least = min(each.peak_mib(candidate) for each in self.explanations)
        least *= 1 - min(1.0, max(MARGIN_FRAC, 2 * self.off_frac))
        return min(least, least_peak_mib(self.peaks, candidate, max(REPEATS_FRAC, 2 * self.off_frac)))


def memory_model(candidate: Candidate, trials: Sequence[Trial]) -> MemoryModel | None:
    """The memory of `candidate` by earlier launches; None below LAUNCHES different ones of its group."""
    group = group_of(candidate)
    peaks = _peaks([trial for trial in trials if trial.outcome == "ok" and group_of(trial.candidate) == group])
    if len(peaks) < LAUNCHES:
        return None
    return MemoryModel(explanations=explanations(peaks), peaks=peaks)


def _peaks(trials: Sequence[Trial]) -> dict[Shape, float]:
    """The largest peak in MiB of each shape that was measured; where that ended early it may be too low."""
    found: dict[Shape, float] = {}
    for trial in trials:
        metric = metric_of(trial, PEAK)
        if trial.has_numbers and metric is not None and metric.value > 0:
            shape = (trial.candidate.dtype, trial.candidate.workers, trial.candidate.batch_size)
            found[shape] = max(metric.value, found.get(shape, 0.0))
    return found


def why_too_large(candidate: Candidate, trials: Sequence[Trial], memory_mib: float) -> str | None:
    """Why `candidate` cannot fit into the machine's memory, with the arithmetic; None where it may, or is not known."""
    model = memory_model(candidate, trials) if candidate.device == "cpu" else None
    if model is None or model.least_mib(candidate) <= memory_mib:
        return None
    base, weights, rows = model.explanations[0].parts_of(candidate.dtype)
    return (
        f"needs at least {model.least_mib(candidate):.0f} MiB of {memory_mib:.0f}: by {len(model.peaks)} launches, "
        f"{base:.0f} + {candidate.workers} workers x ({weights:.0f} + {candidate.batch_size} x {rows:.1f}) = "
        f"{model.predicted_mib(candidate):.0f} MiB, the worst of them {100 * model.off_frac:.1f} % off"
    )


class ChancesToFit:
    """How likely candidates fit into `memory_mib`, by the launches in `trials`. Other dtypes of an engine count until
    LAUNCHES of the candidate's own are known. What ran out of memory on a machine with so much refutes explanations
    by which it would have fit; `memories_mib` as in `ran_out_of_memory`.
    """

    def __init__(
        self, trials: Sequence[Trial], memory_mib: float, memories_mib: Mapping[str, float] = ONE_MACHINE
    ) -> None:
        self._memory_mib, self._memories_mib = memory_mib, memories_mib
        self._trials: dict[object, list[Trial]] = {}
        self._known: dict[object, tuple[Sequence[Explanation], Mapping[Shape, float]] | None] = {}
        for trial in trials:
            if trial.candidate.device == "cpu" and math.isfinite(memory_mib):
                self._trials.setdefault(_family(trial.candidate), []).append(trial)

    def chance(self, candidate: Candidate) -> float:
        """From LEAST to 1; 1 where nothing is known."""
        bounds = self.bounds_mib(candidate)
        if bounds is None or bounds[1] <= self._memory_mib:
            return 1.0
        low, high = (math.log(max(each, 1e-9)) for each in bounds)
        return min(1.0, max(LEAST, (math.log(self._memory_mib) - low) / (high - low)))

    def bounds_mib(self, candidate: Candidate) -> tuple[float, float] | None:
        """Between which peaks `candidate` lies by the explanations of the launches; None where there were none."""
        key = (_family(candidate), candidate.dtype)
        if key not in self._known:
            self._known[key] = self._explained(candidate)
        known = self._known[key]
        if known is None:
            return None
        found, peaks = known
        margin_frac = _margin_frac(candidate, peaks, found)
        predicted = [each.peak_mib(candidate) for each in found]
        return min(predicted) * (1 - min(margin_frac, 1.0)), max(predicted) * (1 + margin_frac)

    def _explained(self, candidate: Candidate) -> tuple[Sequence[Explanation], Mapping[Shape, float]] | None:
        """What explains the launches that count for `candidate` and is not refuted (all, where all are), and these."""
        trials = self._trials.get(_family(candidate), [])
        peaks = _peaks(trials)
        own = {shape: peak for shape, peak in peaks.items() if shape[0] == candidate.dtype}
        peaks = own if len(own) >= LAUNCHES else peaks
        if not peaks:
            return None
        found = explanations(peaks)
        for failed in [trial.candidate for trial in ran_out_of_memory(trials, self._memory_mib, self._memories_mib)]:
            room_mib = self._memory_mib / (1 + _margin_frac(failed, peaks, found))
            found = [each for each in found if each.peak_mib(failed) >= room_mib] or found
        return found, peaks


def _margin_frac(candidate: Candidate, peaks: Mapping[Shape, float], found: Sequence[Explanation]) -> float:
    """How far what explains `peaks` may be off for `candidate`."""
    is_launched = any(dtype == candidate.dtype for dtype, _, _ in peaks)
    return max(REPEATS_FRAC if is_launched else OTHER_DTYPE_FRAC, 2 * found[0].off_frac)


def _family(candidate: Candidate) -> object:
    """What shares its memory's parts with `candidate`: its group, in every dtype whose values have a known size."""
    return group_of(replace(candidate, dtype="") if candidate.dtype in VALUE_BYTES else candidate)
