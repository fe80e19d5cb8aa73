"""Calibration during a search: when each machine launches the calibration candidate, and which one is set aside.

On joining, after 20 of its trials or two hours, and before the finalists, a machine launches one candidate a few
times. One that differs from most of the others is set aside: its trials are shown and not ranked. Where no majority
agrees, as with two that differ, nobody knows which is the odd one: then the machine of the finalists ranks alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from harness.measure.machine.calibration import (
    LAUNCHES,
    Calibration,
    MachineOfRun,
    RankedAs,
    Ratio,
    compared_metric,
    ratios,
    share,
)
from harness.records import Candidate, Trial
from harness.scenario.schema import Scenario

EVERY_TRIALS = 20
"""Trials of a machine, not of the run: eight machines would calibrate after every third trial of each."""
EVERY_S = 7200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationTerms:
    """What is launched and compared, and where it goes: `keep` stores a launch, `publish` the machines as they stand,
    `note` gets a line for people. `machines`, `trials` and `launches` of the candidate are those of the run being
    resumed, `judged` is one of these whose answers were judged. `planned` trials end the search: near them none is
    calibrated, since all are then anyway."""

    candidate: Candidate
    metric: str
    keep: Callable[[Calibration], None]
    publish: Callable[[tuple[MachineOfRun, ...]], None]
    note: Callable[[str], None]
    machines: tuple[MachineOfRun, ...] = ()
    trials: int = 0
    planned: float = math.inf
    launches: int = 0
    judged: Trial | None = None


@dataclass(slots=True)
class _Machine:
    """`logs` are the launches of its newest round, `before` those of the round that was judged last."""

    machine_id: str
    machine_class: str
    rounds: int = 0
    is_here: bool = False
    is_open: bool = False
    needs_round: bool = True
    launched: int = 0
    wanted: int = LAUNCHES[0]
    logs: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    at_s: float = 0.0
    trials_since: int = 0
    ratio: Ratio | None = None
    ranked: RankedAs = "ranked"
    why: str = ""

    @property
    def is_awaited(self) -> bool:
        """Whether the others are judged only with what it launches now: it is in the middle, or has nothing else."""
        return self.is_open and self.launched < self.wanted and (self.launched > 0 or not self.before)

    @property
    def values(self) -> list[float]:
        """What it is judged by."""
        return self.logs if not self.is_open or self.launched >= LAUNCHES[0] else self.before


class Calibrator:
    """Every machine of a run and how it stands to the others."""

    def __init__(self, terms: CalibrationTerms, now: Callable[[], float]) -> None:
        self._terms, self._now = terms, now
        self._trials = terms.trials
        self._machines: dict[str, _Machine] = {}
        # Two that differed, of which one alone may be here now: their trials are still of two speeds.
        self._is_split = any(
            each.ratio is not None and each.ranked != "set_aside" and each.ratio.standing == "differs"
            for each in terms.machines
        )
        for each in terms.machines:
            is_aside = each.ranked == "set_aside"
            self._machines[each.machine_id] = _Machine(
                each.machine_id,
                each.machine_class,
                rounds=each.rounds,
                ratio=each.ratio,
                ranked=each.ranked if is_aside else "ranked",
                why=each.why if is_aside else "",
            )

    @property
    def candidate(self) -> Candidate:
        """What is launched."""
        return self._terms.candidate

    @property
    def set_aside(self) -> Mapping[str, str]:
        """Machine -> why its trials are not ranked and it gets no other."""
        return {each.machine_id: each.why for each in self._machines.values() if each.ranked == "set_aside"}

    @property
    def scales(self) -> Mapping[str, float]:
        """Machine -> how slow it is against the class, as far as that is no chance; two are each as far from their
        middle. One that left, or has not come back to a resumed run, keeps what it was compared to last: its trials
        still count."""
        machines = [each for each in self._machines.values() if each.ranked != "set_aside"]
        found = {each.machine_id: each.ratio for each in machines if each.ratio is not None}
        power = share(found.values())
        return {
            machine: ratio.value ** (power * (0.5 if (ratio.machines or len(found)) == 2 else 1.0))
            for machine, ratio in found.items()
        }

    @property
    def is_busy(self) -> bool:
        """Whether a machine is being calibrated."""
        return any(each.is_open for each in self._here())

    def join(self, machine_id: str, machine_class: str) -> None:
        """A machine takes part from now on, or again."""
        one = self._machines.setdefault(machine_id, _Machine(machine_id, machine_class))
        one.is_here = one.needs_round = True
        self._open_due()

    def leave(self, machine_id: str) -> None:
        """A machine takes part no longer; a calibration that it had begun is void."""
        if (one := self._machines.get(machine_id)) is not None:
            one.is_here = one.is_open = False
            self._judge()

    def is_ready(self, machine_id: str) -> bool:
        """Whether a machine may run trials: it is not being calibrated."""
        return not self._machines[machine_id].is_open

    def wants(self, machine_id: str) -> bool:
        """Whether its next launch is the calibration candidate's."""
        one = self._machines[machine_id]
        return one.is_open and one.launched < one.wanted

    def trial_ended(self, machine_id: str) -> None:
        """Count a trial of the run."""
        self._trials += 1
        if (one := self._machines.get(machine_id)) is not None:
            one.trials_since += 1
        self._open_due()

    def check_again(self) -> None:
        """Calibrate every machine that ran trials since it was calibrated last."""
        for each in self._here():
            each.needs_round = each.needs_round or each.trials_since > 0
        self._open_due()

    def took(self, machine_id: str, trial: Trial) -> None:
        """A launch of the calibration candidate ended."""
        one = self._machines[machine_id]
        launch = Calibration(round=one.rounds, after_trials=self._trials, metric=self._terms.metric, trial=trial)
        self._terms.keep(launch)
        one.launched += 1
        if (value := launch.log_slowness) is not None:
            one.logs.append(value)
        else:
            why = trial.reason or f"no {self._terms.metric}"
            self._terms.note(f"machine {machine_id}: a launch of the calibration candidate failed: {why}")
        self._judge()

    def rank_alone(self, machine_id: str) -> None:
        """Where no majority of machines agrees: the trials of the others are not ranked beside those of this one."""
        if not self._is_split:
            return
        for each in self._machines.values():
            if each.ranked == "set_aside":
                continue
            each.ranked = "ranked" if each.machine_id == machine_id else "one_of_two"
            each.why = "" if each.ranked == "ranked" else f"it differs from machine {machine_id}, which ranks alone"
        self._terms.note(
            f"the machines differ and no majority agrees: the finalists run on {machine_id}, it ranks alone"
        )
        self._publish()

    def _here(self) -> list[_Machine]:
        return [each for each in self._machines.values() if each.is_here and each.ranked != "set_aside"]

    def _open_due(self) -> None:
        """Begin a round on each machine that is due; a single machine has nobody to be compared with."""
        here = self._here()
        is_near_end = self._terms.planned - self._trials < len(here) * EVERY_TRIALS / 2
        is_due = not is_near_end and any(each.trials_since >= EVERY_TRIALS for each in here)
        for each in here if len(here) > 1 else ():
            # Those that are nearly due are launched beside it: at one time all machines are compared.
            ran_many = is_due and each.trials_since >= EVERY_TRIALS / 2
            old = ran_many or self._now() - each.at_s >= EVERY_S
            if each.is_open or not (each.needs_round or old):
                continue
            each.before = each.logs
            each.is_open, each.needs_round, each.logs = True, False, []
            each.launched, each.wanted, each.rounds = 0, LAUNCHES[0], each.rounds + 1

    def _judge(self) -> None:
        """Judge the machines whose launches are all there, together; they launch more while one is not clear."""
        here = self._here()
        if len(here) < 2:
            for each in here:
                each.needs_round, each.is_open = each.needs_round or each.is_open, False
        ended = [each for each in here if each.is_open and each.launched >= each.wanted]
        if (
            not ended
            or any(each.is_awaited for each in here)
            or self._set_aside_failing(here, ended)
            or self._goes_on(here, ended)
        ):
            return
        self._close(ended)
        self._set_aside_differing()
        self._publish()

    def _goes_on(self, here: list[_Machine], ended: list[_Machine]) -> bool:
        """Whether those that ended launch it again, since it is not clear how one of them stands."""
        self._compare(here, ended)
        is_clear = all(each.ratio is None or each.ratio.standing != "unclear" for each in ended)
        more = [step for step in LAUNCHES if step > max(each.wanted for each in ended)]
        if is_clear or not more:
            return False
        for each in ended:
            each.wanted = more[0]
        return True

    def _compare(self, here: list[_Machine], ended: list[_Machine]) -> None:
        """Give every machine its ratio, but for those in the middle of a round."""
        found = ratios({each.machine_id: each.values for each in here})
        for each in here:
            if each in ended or not each.is_open:
                each.ratio = found.get(each.machine_id)

    def _set_aside_differing(self) -> None:
        """The one that differs most, then the others compared without it, as long as most agree."""
        while True:
            here = self._here()
            self._compare(here, [])
            differing = [each for each in here if each.ratio is not None and each.ratio.standing == "differs"]
            self._is_split = bool(differing) and 2 * len(differing) >= len(here)
            if not differing or self._is_split:
                return
            odd = max(differing, key=lambda each: abs(math.log(each.ratio.value if each.ratio else 1.0)))
            assert odd.ratio is not None
            how = "slower" if odd.ratio.value > 1 else "faster"
            self._aside(odd, f"it is {how} than its class, {self._terms.metric} by a factor of {odd.ratio.text}")

    def _set_aside_failing(self, here: list[_Machine], ended: list[_Machine]) -> bool:
        """Whether machines were set aside, or could not be compared, since the candidate fails there."""
        failing = [each for each in ended if len(each.logs) < 2]
        if not failing:
            return False
        self._close(ended)
        if 2 * len(failing) >= len(here):
            self._terms.note("machines not compared: the calibration candidate fails on half of them or more")
        else:
            for each in failing:
                self._aside(each, "the calibration candidate fails on it and runs on the others")
        self._publish()
        return True

    def _close(self, ended: list[_Machine]) -> None:
        for each in ended:
            each.is_open, each.trials_since = False, 0
            each.at_s = self._now()
            if each.ratio is not None:
                self._terms.note(f"machine {each.machine_id} calibrated: {self._terms.metric} {each.ratio.text}")

    def _aside(self, machine: _Machine, why: str) -> None:
        machine.ranked, machine.why = "set_aside", why
        self._terms.note(f"machine {machine.machine_id} is set aside, its trials are shown and not ranked: {why}")

    def _publish(self) -> None:
        self._terms.publish(
            tuple(
                MachineOfRun(
                    machine_id=each.machine_id,
                    machine_class=each.machine_class,
                    ratio=each.ratio,
                    rounds=each.rounds,
                    ranked=each.ranked,
                    why=each.why,
                )
                for each in self._machines.values()
            )
        )


def metric_for(scenario: Scenario) -> str:
    """The metric by which the machines of a search are compared."""
    return compared_metric(name for objective in scenario.objectives for name in objective.judged)
