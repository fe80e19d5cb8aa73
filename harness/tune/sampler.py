"""The choice of a search's next candidate, and Optuna's study, which records the trials.

Of one objective `gp` takes the candidate with the largest expected gain, after some random ones; `grid` takes all, and
all else is one of Optuna's samplers. Two studies. `Proposals` samples in memory: for every proposal its sampler is
seeded from (search.seed, trials so far), so the next candidate is a pure function of the recorded trials, and a resumed
search proposes what the interrupted one would have. `StudyRecord` is the run folder's study.db, which optuna-dashboard
opens: one Optuna trial per recorded trial, added when it is finished, so that a kill leaves no RUNNING zombie and a
lost file can be made again from trials.jsonl. Sampling there directly would fill it with the duplicates that a discrete
space provokes.

Optuna facts (5.0.0): constraints go through `set_constraint`, since `constraints_func` is deprecated; a failed trial
teaches a sampler nothing, so a candidate that did not run is reported as completed, with the worst value, and
infeasible.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState

from harness.choose.goals import Goals, goals_of
from harness.errors import EnvironmentFault
from harness.records import NOT_MEASURED, Candidate, Trial
from harness.scenario.schema import Scenario
from harness.space.candidates import SpacePlan
from harness.tune.draws import draws
from harness.tune.encoding import Encoding, SharedEncoding
from harness.tune.expected_gain import MOST_UNMEASURED, expected_gains, feasible_shares, measured_in
from harness.tune.failures import chances_to_run
from harness.tune.implausible import FAILURES
from harness.tune.surrogate import Distances, Floats

ASKS = 24
"""How often a sampler may repeat a measured candidate before an unseen one is drawn instead (each ask costs ~1 ms), and
from how many drawn at random the first that should fit is taken."""


class Proposals:
    """The order in which the candidates of a plan are measured, given what each one showed. `first` come before the
    blocks' defaults, but after the incumbent."""

    def __init__(self, plan: SpacePlan, scenario: Scenario, first: Sequence[Candidate] = ()) -> None:
        self._plan = plan
        defaults = [block.default for block in plan.blocks]
        incumbent = [block.default for block in plan.blocks if block.is_incumbent]
        self._first = (*incumbent, *first, *defaults)
        self._scenario = scenario
        self._goals = goals_of(scenario)
        self._is_genetic = scenario.sampler == "nsga2"
        self._encoding = SharedEncoding(plan) if self._is_genetic else Encoding(plan)
        self._study = _new_study(scenario, storage=None, name=scenario.name)
        self._study.sampler = _sampler(scenario, scenario.search.seed, blocks=len(plan.blocks))
        self._distances = Distances(plan.candidates)
        self._trials: list[Trial] = []
        self._seen: set[str] = set()
        self._candidates = {candidate.candidate_id: candidate for candidate in plan.candidates}

    def next(
        self,
        pending: Sequence[Candidate] = (),
        chance_to_fit: Callable[[Candidate], float] = lambda candidate: 1.0,
        passed: Collection[str] = (),
    ) -> Candidate | None:
        """The candidate to measure next, none of those `pending`, whose trials are under way; None when there is no
        other. What the sampler draws is taken with its `chance_to_fit` into memory; those `passed`, by their ids, are
        not to begin now. Changes nothing but the RNG, which is seeded by the number of trials begun."""
        taken = self._seen.union((candidate.candidate_id for candidate in pending), passed)
        unseen = [each for name, each in self._candidates.items() if name not in taken]
        if not unseen:
            return None
        for candidate in self._first:
            if candidate.candidate_id not in taken:
                return candidate
        if self._scenario.sampler == "grid":
            return self._next_of_grid(taken)
        if self._scenario.sampler == "gp":
            return self._next_by_gain(unseen, pending, chance_to_fit)
        return self._next_of_sampler(unseen, taken, chance_to_fit)

    def is_at_first(self, passed: Collection[str] = ()) -> bool:
        """A block's default, or what comes before the defaults, is still to be measured, those `passed` apart."""
        return any(candidate.candidate_id not in self._seen.union(passed) for candidate in self._first)

    def pass_over(self, candidate: Candidate) -> None:
        """Never propose `candidate` again; nothing is learned."""
        self._seen.add(candidate.candidate_id)

    def learn(self, trial: Trial) -> None:
        """Take in a finished trial (not an interrupted one); a candidate counts once, one outside the plan not at all
        (a resumed run may hold candidates that this machine can no longer launch)."""
        candidate = trial.candidate
        if candidate.candidate_id in self._seen or not self._encoding.knows(candidate):
            return
        self._seen.add(candidate.candidate_id)
        if trial.outcome != "skipped":
            self._trials.append(trial)
        if self._scenario.sampler in ("gp", "grid"):
            return
        self._study.enqueue_trial(self._encoding.params(candidate))
        asked = self._study.ask()
        self._encoding.suggest(asked)
        if self._is_genetic:
            _ = asked.relative_params  # gives the trial its generation, which enqueued parameters alone would not
        for name, excess in self._goals.excesses(trial).items():
            asked.set_constraint(name, excess)
        self._study.tell(asked, list(_values(trial, self._goals)))

    def _next_of_grid(self, taken: Collection[str]) -> Candidate:
        """Blocks take turns, each in its listed order, so that no engine is left for after the budget."""
        columns = [[each for each in block.candidates if each.candidate_id not in taken] for block in self._plan.blocks]
        done = [len(block.candidates) - len(left) for block, left in zip(self._plan.blocks, columns, strict=True)]
        turn = min((count, index) for index, count in enumerate(done) if columns[index])[1]
        return columns[turn][0]

    def _next_by_gain(
        self, unseen: Sequence[Candidate], pending: Sequence[Candidate], chance_to_fit: Callable[[Candidate], float]
    ) -> Candidate:
        """At random, feasible ones rather, until enough is known; then what should gain most."""
        begun = len(self._trials) + len(pending)
        rng = np.random.default_rng([self._scenario.search.seed, begun])
        measured = measured_in(self._goals, self._trials)
        if begun < _random_trials(self._scenario, len(self._plan.blocks)) or len(measured) < 2:
            likely = feasible_shares(self._distances, self._trials, unseen)
            order = rng.choice(len(unseen), size=ASKS, p=likely / likely.sum()).tolist()
            drawn: list[Candidate] = [unseen[index] for index in order]
            luck = float(np.sqrt(rng.random()))  # as of a sampler's draws
            return next((each for each in drawn if chance_to_fit(each) > luck), max(drawn, key=chance_to_fit))
        if len(unseen) > MOST_UNMEASURED:
            unseen = self._looked_at(unseen, measured, rng)
        gains = expected_gains(self._distances, self._goals, self._trials, unseen, pending)
        return _most_promising(unseen, gains, chance_to_fit, rng)

    def _looked_at(
        self, unseen: Sequence[Candidate], measured: Sequence[Trial], rng: np.random.Generator
    ) -> list[Candidate]:
        """MOST_UNMEASURED of them: half the nearest to the best that was measured, the others at random."""
        best = min(measured, key=lambda trial: (not trial.is_feasible, self._goals.costs(trial)))
        apart = self._distances.between(unseen, [best.candidate])[:, 0]
        order = np.argsort(apart, kind="stable")
        half = MOST_UNMEASURED // 2
        chosen = [*order[:half], *rng.permutation(order[half:])[: MOST_UNMEASURED - half]]
        return [unseen[index] for index in chosen]

    def _next_of_sampler(
        self, unseen: Sequence[Candidate], taken: Collection[str], chance_to_fit: Callable[[Candidate], float]
    ) -> Candidate:
        seed = int(np.random.SeedSequence([self._scenario.search.seed, len(taken)]).generate_state(1)[0])
        self._study.sampler = _sampler(self._scenario, seed, blocks=len(self._plan.blocks))
        rng = np.random.default_rng(seed)
        # One for all draws, so that a low chance is none the higher for being drawn again; its root, since a launch
        # that runs teaches more than one that ends out of memory.
        luck = float(np.sqrt(np.random.default_rng([seed, 1]).random()))
        with draws(self._study) as draw:
            for _ in range(ASKS):
                candidate = self._encoding.suggest(draw())
                if candidate.candidate_id in taken:
                    continue
                # TPE and NSGA-II learn of failures by themselves: to them those are infeasible trials.
                is_random = self._scenario.sampler == "random"
                if is_random and rng.random() >= self._chances([candidate])[0]:
                    continue
                if chance_to_fit(candidate) > luck:
                    return candidate
        chances = np.minimum(self._chances(unseen), [chance_to_fit(each) for each in unseen])
        return unseen[int(rng.choice(len(unseen), p=chances / chances.sum()))]

    def _chances(self, candidates: Sequence[Candidate]) -> Floats:
        """For each candidate the chance that it runs at all, by what its like did."""
        tried, ran = [each.candidate for each in self._trials], [each.outcome not in FAILURES for each in self._trials]
        return chances_to_run(self._distances, tried, ran, candidates)


def first_candidates(
    plan: SpacePlan, scenario: Scenario, count: int, first: Sequence[Candidate] = ()
) -> tuple[Candidate, ...]:
    """The first candidates in order, as far as they do not depend on measurements: those of a prior, the blocks'
    defaults, then the grid's next ones."""
    proposals = Proposals(plan, scenario, first)
    is_known = scenario.sampler == "grid"
    order: list[Candidate] = []
    while len(order) < count and (is_known or proposals.is_at_first()) and (candidate := proposals.next()) is not None:
        proposals.pass_over(candidate)
        order.append(candidate)
    return tuple(order)


@contextmanager
def _study_faults(path: Path) -> Iterator[None]:
    """Whatever sqlalchemy and sqlite raise about the study in `path`, in a dozen kinds, as one EnvironmentFault."""
    try:
        yield
    except (ImportError, AssertionError):
        raise
    except Exception as error:
        why, *_ = str(error.__cause__ or error).splitlines() or [""]
        raise EnvironmentFault(
            f"{path}: expected a writable Optuna study, got {type(error).__name__}: {why:.200}; "
            "free disk space if there is none, else delete the file: it is made again from trials.jsonl"
        ) from error


class StudyRecord:
    """The run folder's study.db: every recorded trial with its values, constraints, outcome and reason."""

    def __init__(self, path: Path, plan: SpacePlan, scenario: Scenario) -> None:
        """Opens or creates the study. Raises EnvironmentFault when the file cannot be written or is not a study."""
        self._scenario = scenario
        self._goals = goals_of(scenario)
        self._encoding = Encoding(plan)
        self._path = path
        storage = f"sqlite:///{path}"
        with _study_faults(path):
            self._study = _new_study(scenario, storage=storage, name=scenario.name)
            if self._is_of_another_plan(plan):
                optuna.delete_study(study_name=scenario.name, storage=storage)
                self._study = _new_study(scenario, storage=storage, name=scenario.name)
            self._known = {each.user_attrs.get("trial_id") for each in self._study.get_trials(deepcopy=False)}

    def _is_of_another_plan(self, plan: SpacePlan) -> bool:
        """Whether the machine could launch something else when this study began (an environment came or went): Optuna
        takes no parameter with other choices than before. The study is then made again from trials.jsonl."""
        own = {
            name: each for block in plan.blocks for name, each in self._encoding.distributions(block.default).items()
        }
        trials = self._study.get_trials(deepcopy=False)
        return any(own.get(name, each) != each for trial in trials for name, each in trial.distributions.items())

    def add(self, trial: Trial) -> None:
        """Store a recorded trial, in one transaction; one that is there already, or outside the plan, is left out.
        Raises EnvironmentFault when the file cannot be written."""
        if trial.trial_id in self._known or not self._encoding.knows(trial.candidate):
            return
        attrs = {"trial_id": trial.trial_id, "number": trial.number, "candidate_id": trial.candidate.candidate_id}
        attrs |= {"outcome": trial.outcome, "reason": trial.reason, "violations": list(trial.violations)}
        is_finished = trial.outcome not in NOT_MEASURED
        stored = optuna.trial.create_trial(
            state=TrialState.COMPLETE if is_finished else TrialState.FAIL,
            params=self._encoding.params(trial.candidate),
            distributions=self._encoding.distributions(trial.candidate),
            values=_values(trial, self._goals) if is_finished else None,
            constraints=self._goals.excesses(trial) if is_finished else None,
            user_attrs=attrs,
        )
        with _study_faults(self._path):
            self._study.add_trial(stored)
        self._known.add(trial.trial_id)


def _values(trial: Trial, goals: Goals) -> tuple[float, ...]:
    """One value per objective, in its own direction; the worst possible where it was not measured."""
    costs = zip(goals.objectives, goals.costs(trial), strict=True)
    return tuple(cost if objective.is_minimized else -cost for objective, cost in costs)


def _new_study(scenario: Scenario, storage: str | None, name: str) -> optuna.Study:
    optuna.logging.set_verbosity(logging.WARNING)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=scenario.search.seed),
        directions=[objective.goal for objective in scenario.objectives],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([objective.name for objective in scenario.objectives])
    return study


def _most_promising(
    candidates: Sequence[Candidate],
    gains: Floats,
    chance_to_fit: Callable[[Candidate], float],
    rng: np.random.Generator,
) -> Candidate:
    """The one with the largest gain times chance; chance is asked of those alone that could still be it."""
    # Rounded: of candidates that are alike in all that was learned, luck is to choose, not errors of rounding.
    gains = np.round(gains, 12)
    order = np.lexsort((rng.random(len(gains)), -gains)).tolist()
    best: Candidate = candidates[order[0]]
    most = -1.0
    if gains[order[0]] <= 0:  # of equal gains the chance decides
        best, most = max((candidates[index] for index in order[:ASKS]), key=chance_to_fit), 0.0
    for index in order:
        if gains[index] <= most:
            break
        if (gain := gains[index] * chance_to_fit(candidates[index])) > most:
            best, most = candidates[index], gain
    return best


def _random_trials(scenario: Scenario, blocks: int) -> int:
    """So many trials go by before a sampler that learns uses what it has learned."""
    return max(blocks, min(10, scenario.search.trials // 3))


def _sampler(scenario: Scenario, seed: int, blocks: int) -> optuna.samplers.BaseSampler:
    if scenario.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if scenario.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, scenario.search.trials // 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed,
            multivariate=True,
            group=True,
            n_startup_trials=_random_trials(scenario, blocks),
        )
