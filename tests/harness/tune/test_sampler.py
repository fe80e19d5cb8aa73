"""The study in the run folder, read back with Optuna itself."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from harness.errors import EnvironmentFault
from harness.records import Trial
from harness.scenario.schema import Scenario
from harness.tune.loop import search
from harness.tune.sampler import Proposals, StudyRecord, first_candidates
from tests.harness.tune.landscape import Bench, plan, scenario, trial_of


def _load(path: Path) -> optuna.Study:
    return optuna.load_study(study_name="landscape", storage=f"sqlite:///{path}")


def test_study_db_is_a_study_that_optuna_opens(tmp_path: Path) -> None:
    of = scenario({"trials": 8})
    result = search(Bench(of, tmp_path / "study.db").context())
    study = _load(tmp_path / "study.db")
    assert study.directions == [optuna.study.StudyDirection.MINIMIZE]
    assert study.metric_names == ["latency_p50_ms"]
    assert [each.user_attrs["trial_id"] for each in study.trials] == [trial.trial_id for trial in result.trials]
    assert {each.state for each in study.trials} == {TrialState.COMPLETE}
    best = study.best_trial
    feasible = [trial for trial in result.trials if trial.is_feasible]
    assert best.user_attrs["trial_id"] in {trial.trial_id for trial in feasible}


def test_parameters_are_conditional_on_the_block(study_db: Path) -> None:
    search(Bench(scenario({"trials": 3}), study_db).context())
    params = [set(each.params) for each in _load(study_db).trials]
    axes = ("dtype", "workers", "batch_size", "max_batch_delay_ms", "threads")
    assert params == [
        {"block", *(f"{engine}.{axis}" for axis in axes)} for engine in ("transformers", "ctranslate2", "onnxruntime")
    ]


def test_a_failed_candidate_is_a_completed_infeasible_trial(study_db: Path) -> None:
    of = scenario()
    record = StudyRecord(study_db, plan(of), of)
    candidate = plan(of).candidates[0]
    trial = Trial(trial_id="t1", number=1, candidate=candidate, outcome="crashed", reason="signal 11")
    record.add(trial)
    stored = _load(study_db).trials[0]
    assert stored.state == TrialState.COMPLETE
    assert stored.constraints == {"ran": 1000.0}
    assert (stored.user_attrs["outcome"], stored.user_attrs["reason"]) == ("crashed", "signal 11")


def test_broken_constraints_are_positive_and_kept_ones_are_not(study_db: Path) -> None:
    of = scenario({"trials": 20, "sampler": "random"})
    result = search(Bench(of, study_db).context())
    for stored, trial in zip(_load(study_db).trials, result.trials, strict=True):
        assert all(value <= 0 for value in stored.constraints.values()) == trial.is_feasible


def test_an_interrupted_trial_is_a_failed_one(study_db: Path) -> None:
    of = scenario()
    trial = Trial(trial_id="t1", number=1, candidate=plan(of).candidates[0], outcome="interrupted")
    StudyRecord(study_db, plan(of), of).add(trial)
    assert [each.state for each in _load(study_db).trials] == [TrialState.FAIL]


def test_a_study_begun_when_more_could_be_launched_is_made_again(study_db: Path) -> None:
    """An environment that went away between two starts takes its block along, one that came brings it."""
    of = scenario()
    whole = plan(of)
    less = replace(
        whole,
        blocks=whole.blocks[:-1],
        candidates=tuple(each for block in whole.blocks[:-1] for each in block.candidates),
    )
    trials = [
        Trial(trial_id=f"t{number}", number=number, candidate=block.default, outcome="crashed")
        for number, block in enumerate(whole.blocks)
    ]
    for now in (whole, less, whole):
        record = StudyRecord(study_db, now, of)
        for trial in trials:
            record.add(trial)
        stored = [each.user_attrs["trial_id"] for each in _load(study_db).trials]
        assert stored == [f"t{number}" for number in range(len(now.blocks))]


def test_a_lost_study_is_made_again_from_the_recorded_trials(tmp_path: Path) -> None:
    of = scenario({"trials": 4})
    done = search(Bench(of, tmp_path / "study.db").context()).trials
    before = _load(tmp_path / "study.db").trials
    (tmp_path / "study.db").unlink()
    search(Bench(of, tmp_path / "study.db", done=done).context())
    after = _load(tmp_path / "study.db").trials
    assert [(t.params, t.values, t.constraints, t.user_attrs) for t in after] == [
        (t.params, t.values, t.constraints, t.user_attrs) for t in before
    ]


@pytest.mark.parametrize("sampler", ["gp", "tpe", "nsga2"])
def test_several_objectives_make_a_study_of_several_directions(study_db: Path, sampler: str) -> None:
    objectives = [
        {"metric": "latency_p50_ms", "goal": "minimize"},
        {"metric": "throughput_rps", "goal": "maximize"},
    ]
    of = scenario({"trials": 10, "sampler": sampler}, objectives=objectives)
    search(Bench(of, study_db).context())
    study = _load(study_db)
    assert [each.name for each in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert len(study.trials) == 10


def test_a_file_that_is_no_study_is_one_sentence(tmp_path: Path) -> None:
    of = scenario()
    (tmp_path / "study.db").write_bytes(b"this is not a database, by a long way" * 100)
    with pytest.raises(EnvironmentFault, match=r"study\.db: expected a writable Optuna study, got DatabaseError"):
        StudyRecord(tmp_path / "study.db", plan(of), of)


def test_a_disk_that_fills_up_under_the_study_is_one_sentence(study_db: Path) -> None:
    of = scenario()
    record = StudyRecord(study_db, plan(of), of)
    first, second = plan(of).candidates[:2]
    record.add(Trial(trial_id="t1", number=1, candidate=first, outcome="crashed", reason="signal 11"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (study_db.stat().st_size, before[1]))
    try:
        with pytest.raises(EnvironmentFault) as fault:
            record.add(Trial(trial_id="t2", number=2, candidate=second, outcome="crashed", reason="x" * 200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(fault.value).startswith(f"{study_db}: expected a writable Optuna study, got ")
    assert "(sqlite3.OperationalError)" in str(fault.value)
    assert "free disk space if there is none" in str(fault.value)
    assert "\n" not in str(fault.value)


def test_proposals_change_only_by_what_they_learn() -> None:
    of = scenario({"seed": 5})
    proposals = Proposals(plan(of), of)
    for number in range(1, 8):
        candidate = proposals.next()
        assert candidate is not None
        assert proposals.next() == candidate
        proposals.learn(trial_of(candidate, number, of))
    assert proposals.next() != candidate


def _searched(of: Scenario, count: int) -> list[Trial]:
    proposals, trials = Proposals(plan(of), of), list[Trial]()
    while len(trials) < count and (candidate := proposals.next()) is not None:
        trials.append(trial_of(candidate, len(trials) + 1, of))
        proposals.learn(trials[-1])
    return trials


def test_an_objective_that_is_maximized_is_searched_as_well() -> None:
    """Throughput is 8000 over the latency here: the trials are those of the latency, by whichever the search goes."""
    turned = scenario({"seed": 2}, objectives=[{"metric": "throughput_rps", "goal": "maximize"}])
    by_rate, by_latency = (_searched(of, 20) for of in (turned, scenario({"seed": 2})))
    assert [each.candidate for each in by_rate] == [each.candidate for each in by_latency]


def test_an_objective_at_zero_is_searched_without_its_logarithm() -> None:
    of = scenario({"seed": 1}, objectives=[{"metric": "error_frac", "goal": "minimize"}])
    assert len({trial.candidate.candidate_id for trial in _searched(of, 14)}) == 14


def test_while_nothing_ran_candidates_are_still_proposed() -> None:
    of, proposals = scenario({"seed": 1}), Proposals(plan(scenario()), scenario({"seed": 1}))
    for number in range(1, 16):
        candidate = proposals.next()
        assert candidate is not None
        proposals.learn(replace(trial_of(candidate, number, of), outcome="crashed", summary=None, quality=None))


def test_several_objectives_are_searched_by_tpe() -> None:
    goals = [{"metric": "latency_p50_ms", "goal": "minimize"}, {"metric": "throughput_rps", "goal": "maximize"}]
    by_default, by_tpe = (_searched(scenario(search, objectives=goals), 14) for search in ({}, {"sampler": "tpe"}))
    assert [each.candidate for each in by_default] == [each.candidate for each in by_tpe]


def test_a_recorded_candidate_outside_the_plan_is_ignored() -> None:
    of = scenario()
    other = scenario(space=[{"engine": "fake", "workers": [7]}])
    proposals = Proposals(plan(of), of)
    proposals.learn(trial_of_fake(other.space[0].workers[0]))
    assert proposals.next() == plan(of).blocks[0].default


def trial_of_fake(workers: int) -> Trial:
    from harness.records import Candidate

    return Trial(
        trial_id="x", number=1, candidate=Candidate(block=0, engine="fake", workers=workers), outcome="crashed"
    )


def test_the_grid_takes_blocks_in_turns() -> None:
    of = scenario({"sampler": "grid"})
    first = first_candidates(plan(of), of, 6)
    assert [each.engine for each in first] == ["transformers", "ctranslate2", "onnxruntime"] * 2
    assert [each.threads for each in first] == [1, 1, 1, 2, 2, 2]
