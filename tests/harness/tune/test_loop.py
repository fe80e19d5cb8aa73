"""The search on a landscape whose best candidate is known; nothing is launched.

A search writes study.db and never reads it: most tests here do without the file, which SQLite and Optuna need longer to
make than a search of the landscape takes. Those that write one compare with a search that did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from harness.choose.decide import decide
from harness.choose.goals import goals_of
from harness.errors import EnvironmentFault, Interrupted
from harness.quality.inheritance import numeric_path
from harness.records import Candidate, Trial
from harness.tune import loop
from harness.tune.loop import search
from harness.tune.sampler import Proposals
from harness.tune.search_records import SearchResult
from tests.harness.tune.landscape import Bench, NoStudy, best_latency_ms, latency_ms, plan, scenario, trial_of

SAMPLERS = ("gp", "grid", "random", "tpe", "nsga2")
TRIALS = 14


def _ids(trials: Sequence[Trial]) -> list[str]:
    return [trial.candidate.candidate_id for trial in trials if trial.outcome != "interrupted"]


def _run(bench: Bench, *, writes_study: bool = False) -> SearchResult:
    with pytest.MonkeyPatch.context() as patch:
        if not writes_study:
            patch.setattr(loop, "StudyRecord", NoStudy)
        return search(bench.context())


def _best_ms(trials: Sequence[Trial]) -> float:
    return min((latency_ms(trial.candidate) for trial in trials if trial.is_feasible), default=1e9)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_measures_each_block_first_and_no_candidate_twice(tmp_path: Path, sampler: str) -> None:
    bench = Bench(scenario({"sampler": sampler, "trials": TRIALS}), tmp_path / "study.db")
    result = _run(bench)
    assert result.stop == "budget"
    assert result.stop_reason == f"trial budget: {TRIALS} of {TRIALS} candidates measured"
    assert bench.launched[:3] == [block.default for block in plan(bench.scenario).blocks]
    assert len(bench.launched) == len({each.candidate_id for each in bench.launched}) == TRIALS
    assert tuple(bench.recorded) == result.trials
    assert [trial.number for trial in result.trials] == list(range(1, len(result.trials) + 1))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_small_space_is_measured_whole_and_the_stop_says_so(tmp_path: Path, sampler: str) -> None:
    of = scenario(
        {"sampler": sampler, "trials": 50}, space=[{"engine": "onnxruntime", "workers": [1, 2], "batch_size": [1, 4]}]
    )
    result = _run(Bench(of, tmp_path / "study.db"))
    assert sorted(_ids(result.trials)) == sorted(each.candidate_id for each in plan(of).candidates)
    assert (result.stop, result.stop_reason) == (
        "exhausted",
        "space exhausted: each of its 4 candidates measured or skipped",
    )


def test_the_same_seed_gives_the_same_search_and_another_seed_another(study_db: Path) -> None:
    runs = [
        _ids(_run(Bench(scenario({"trials": TRIALS, "seed": seed}), study_db), writes_study=writes).trials)
        for seed, writes in ((1, True), (1, False), (2, False))
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("sampler", ["gp", "tpe", "nsga2"])
@pytest.mark.parametrize("kill_after", [0, 2, 5, 8])
@pytest.mark.parametrize("races", [False, True])
def test_a_search_killed_anywhere_ends_as_the_uninterrupted_one(
    study_db: Path, sampler: str, kill_after: int, races: bool
) -> None:
    """A kill is an exception that nothing catches: the trial in flight is lost. TPE's searches write their study."""
    writes_study = sampler == "tpe" and not races
    of = scenario({"sampler": sampler, "trials": 8, "confirm": {"finalists": 2, "repetitions": 1}})
    whole = _run(Bench(of, study_db, races=races)).trials
    assert races == any(trial.outcome == "ended_early" for trial in whole)

    class Killed(BaseException):
        pass

    killed = Bench(of, study_db, races=races)
    run_trial = killed.run_trial

    def dies(candidate: Candidate, number: int, **about: Any) -> Trial:
        if len(killed.launched) == kill_after:
            raise Killed
        return run_trial(candidate, number, **about)

    killed.run_trial = dies  # type: ignore[method-assign]
    with pytest.raises(Killed):
        _run(killed, writes_study=writes_study)
    rest = Bench(of, study_db, done=tuple(killed.recorded), races=races)
    assert _ids(_run(rest, writes_study=writes_study).trials) == _ids(whole)


def test_racing_saves_time_and_changes_nothing_that_is_proposed_or_chosen(study_db: Path) -> None:
    """Without noise, by TPE, which sees an order: the search goes on as if every trial had run to its end."""
    of = scenario({"sampler": "tpe", "trials": 12, "confirm": {"finalists": 2, "repetitions": 1}})
    whole, raced = (_run(Bench(of, study_db, races=races), writes_study=False).trials for races in (False, True))
    assert sum(trial.race is not None for trial in raced) >= 3
    assert _ids(whole)[:12] == _ids(raced)[:12]
    assert not any(trial.race is not None for trial in raced if trial.repetition)
    whole_choice, raced_choice = (decide(trials, goals_of(of)).chosen.candidate for trials in (whole, raced))
    assert whole_choice == raced_choice


def test_a_kill_between_record_and_study_loses_nothing(study_db: Path) -> None:
    """trials.jsonl holds a trial that study.db has not got."""
    of = scenario({"trials": 6})
    whole = _run(Bench(of, study_db)).trials
    first = Bench(of, study_db)

    def dies_after_recording(trial: Trial) -> None:
        first.recorded.append(trial)
        if len(first.recorded) == 4:
            raise MemoryError

    context = first.context()
    with pytest.raises(MemoryError):
        search(
            type(context)(
                **{**{n: getattr(context, n) for n in context.__slots__}, "record_trial": dies_after_recording}
            )
        )
    resumed = _run(Bench(of, study_db, done=tuple(first.recorded)), writes_study=True).trials
    assert _ids(resumed) == _ids(whole)


def test_a_search_killed_in_a_race_loses_that_trial_alone_and_goes_on_as_if_it_had_not_been(study_db: Path) -> None:
    of = scenario({"trials": 16, "confirm": {"finalists": 2, "repetitions": 1}})
    whole = _run(Bench(of, study_db, races=True)).trials
    lost = [trial.number for trial in whole if trial.race is not None]
    assert len(lost) >= 3
    for number in lost[:3]:
        killed = Bench(of, study_db, races=True)
        run_trial = killed.run_trial

        def dies(candidate: Candidate, at: int, *, killed_in: int = number, of: Any = run_trial, **about: Any) -> Trial:
            trial: Trial = of(candidate, at, **about)
            if at == killed_in:
                raise MemoryError
            return trial

        killed.run_trial = dies  # type: ignore[method-assign]
        with pytest.raises(MemoryError):
            _run(killed)
        assert len(killed.recorded) == number - 1
        resumed = _run(Bench(of, study_db, done=tuple(killed.recorded), races=True)).trials
        assert [(trial.trial_id, trial.outcome) for trial in resumed] == [
            (trial.trial_id, trial.outcome) for trial in whole
        ]


def test_ctrl_c_records_the_trial_and_the_next_start_measures_it_again(study_db: Path) -> None:
    of = scenario({"trials": 6})
    whole = _run(Bench(of, study_db)).trials
    stopped = Bench(of, study_db)
    run_trial = stopped.run_trial

    def interrupts(candidate: Candidate, number: int, **about: Any) -> Trial:
        if number == 4:
            raise KeyboardInterrupt
        return run_trial(candidate, number, **about)

    stopped.run_trial = interrupts  # type: ignore[method-assign]
    result = _run(stopped, writes_study=True)
    assert result.stop == "interrupted"
    assert result.stop_reason == f"interrupted by the user in trial {stopped.recorded[-1].trial_id}"
    assert stopped.recorded[-1].outcome == "interrupted"
    resumed = _run(Bench(of, study_db, done=result.trials), writes_study=True)
    assert _ids(resumed.trials) == _ids(whole)
    assert resumed.trials[4].candidate == stopped.recorded[-1].candidate
    assert resumed.trials[4].number == 5


def test_the_interruptions_own_record_is_kept(tmp_path: Path) -> None:
    bench = Bench(scenario({"trials": 2}), tmp_path / "study.db")

    class Stopped(Interrupted):
        def __init__(self, trial: Trial) -> None:
            super().__init__("stopped")
            self.trial = trial

    def interrupts(candidate: Candidate, number: int, **about: Any) -> Trial:
        trial = Trial(trial_id="mine", number=number, candidate=candidate, outcome="interrupted", reason="stopped here")
        raise Stopped(trial)

    bench.run_trial = interrupts  # type: ignore[method-assign]
    assert _run(bench).trials[0].reason == "stopped here"


def test_a_fault_of_the_machine_passes_through_with_everything_finished_recorded(tmp_path: Path) -> None:
    bench = Bench(scenario({"trials": 6}), tmp_path / "study.db")
    run_trial = bench.run_trial

    def disk_full(candidate: Candidate, number: int, **about: Any) -> Trial:
        if number == 3:
            raise EnvironmentFault("disk full")
        return run_trial(candidate, number, **about)

    bench.run_trial = disk_full  # type: ignore[method-assign]
    with pytest.raises(EnvironmentFault, match="disk full"):
        _run(bench)
    assert len(bench.recorded) == 2


def test_the_time_budget_stops_before_it_is_overrun(tmp_path: Path) -> None:
    """A trial of the landscape takes 20 s: six fit in two minutes, and the reason says what the seventh would take."""
    bench = Bench(scenario({"trials": 50, "max_minutes": 2.0}), tmp_path / "study.db")
    result = _run(bench)
    assert len(result.trials) == 6
    assert bench.clock.now_ns() <= 120e9
    assert result.stop == "budget"
    assert result.stop_reason.startswith("time budget: 2 min 00 s of 2 min 00 s used, the next trial (")


def test_at_least_one_candidate_is_measured_however_short_the_budget(tmp_path: Path) -> None:
    result = _run(Bench(scenario({"max_minutes": 0.001}), tmp_path / "study.db"))
    assert len(result.trials) == 1


def test_time_spent_before_a_resume_counts(tmp_path: Path) -> None:
    of = scenario({"trials": 50, "max_minutes": 2.0})
    first = _run(Bench(of, tmp_path / "study.db"))
    again = _run(Bench(of, tmp_path / "study.db", done=first.trials[:4]))
    assert len(again.trials) == 6


def test_finalists_are_measured_again_in_turns_and_marked(tmp_path: Path) -> None:
    of = scenario({"trials": 8, "confirm": {"finalists": 2, "repetitions": 2}})
    result = _run(Bench(of, tmp_path / "study.db"))
    again = result.trials[8:]
    ranked = sorted((trial for trial in result.trials[:8] if trial.is_feasible), key=lambda t: latency_ms(t.candidate))
    best, second = ranked[0].candidate, ranked[1].candidate
    assert [trial.candidate for trial in again] == [second, best, best, second]
    assert again[0].notes == ("repetition 1: a finalist measured again",)
    assert again[3].notes == ("repetition 2: a finalist measured again",)
    assert result.stop_reason.endswith("finalists measured again (4 trials)")


def test_time_is_kept_back_for_the_finalists(tmp_path: Path) -> None:
    """Of 160 s, two repetitions of 20 s are kept: six candidates and two repetitions, not eight candidates."""
    confirm = {"finalists": 2, "repetitions": 1}
    result = _run(Bench(scenario({"trials": 50, "max_minutes": 160 / 60, "confirm": confirm}), tmp_path / "study.db"))
    assert len(set(_ids(result.trials))) == 6
    assert len(result.trials) == 8


def test_out_of_memory_is_never_retried_and_larger_ones_are_skipped_with_a_reason(tmp_path: Path) -> None:
    space = [{"engine": "transformers", "workers": [1, 2, 4, 8], "batch_size": [1, 2, 4, 8]}]
    of = scenario({"sampler": "grid", "trials": 50}, space=space)
    bench = Bench(of, tmp_path / "study.db")
    result = _run(bench)
    skipped = [trial for trial in result.trials if trial.outcome == "skipped"]
    assert skipped
    assert all("ran out of memory" in trial.reason for trial in skipped)
    assert len(bench.launched) + len(skipped) == 16
    would_fail = [each for each in bench.launched if trial_of(each, 1, of).outcome == "out_of_memory"]
    shapes = [(each.workers, each.batch_size) for each in would_fail]
    assert shapes == [(4, 4), (8, 1)], "each rules out all that is larger in both"


def test_events_tell_what_is_launched_finished_skipped_and_why_it_stopped(tmp_path: Path) -> None:
    bench = Bench(scenario({"trials": 3}), tmp_path / "study.db")
    _run(bench)
    assert [event.kind for event in bench.events] == ["launching", "finished"] * 3 + ["stopped"]
    assert [event.measured for event in bench.events] == [0, 1, 1, 2, 2, 3, 3]
    assert bench.events[2].expected_s == 20.0
    assert bench.events[-1].text == "trial budget: 3 of 3 candidates measured"


@pytest.mark.parametrize("learned", ["gp", "tpe"])
def test_what_learns_finds_far_better_candidates_than_random_with_the_same_trials(tmp_path: Path, learned: str) -> None:
    """24 of 432 candidates, 6 seeds; by TPE 20 seeds gave a median regret of 1 % against 73 %."""
    regrets: dict[str, list[float]] = {}
    for sampler in ("random", learned):
        for seed in range(6):
            of = scenario({"sampler": sampler, "trials": 24, "seed": seed})
            trials = _run(Bench(of, tmp_path / f"{sampler}{seed}.db")).trials
            regrets.setdefault(sampler, []).append(_best_ms(trials) / best_latency_ms(of) - 1)
    assert median(regrets[learned]) < 0.25
    assert median(regrets[learned]) < 0.5 * median(regrets["random"])


def test_nsga2_crosses_all_axes_and_not_only_the_block() -> None:
    """48 trials, 6 seeds: its later candidates are better than random ones; with conditional parameters NSGA-II
    proposed exactly what random search does."""
    found: dict[str, list[float]] = {}
    for sampler in ("random", "nsga2"):
        for seed in range(6):
            of = scenario({"sampler": sampler, "trials": 48, "seed": seed})
            proposals, trials = Proposals(plan(of), of), []
            while len(trials) < 48:
                candidate = proposals.next()
                assert candidate is not None
                trials.append(trial_of(candidate, len(trials) + 1, of))
                proposals.learn(trials[-1])
            found.setdefault(sampler, []).append(median(latency_ms(trial.candidate) for trial in trials[24:]))
    assert sum(found["nsga2"]) < 0.8 * sum(found["random"])


def test_tpe_learns_to_avoid_what_breaks_constraints(tmp_path: Path) -> None:
    of = scenario({"sampler": "tpe", "trials": 40, "seed": 3})
    trials = _run(Bench(of, tmp_path / "study.db")).trials
    late = trials[20:]
    space = [trial_of(each, 1, of) for each in plan(of).candidates]
    base_frac = sum(not trial.is_feasible for trial in space) / len(space)
    assert sum(not trial.is_feasible for trial in late) / len(late) <= base_frac


def test_what_breaks_constraints_keeps_nobody_from_the_best_beside_it(tmp_path: Path) -> None:
    """The best candidate is next to some that break a constraint; with 24 trials each of 14 seeds found it."""
    for seed in range(4):
        of = scenario({"trials": 24, "seed": seed})
        trials = _run(Bench(of, tmp_path / f"{seed}.db")).trials
        assert _best_ms(trials) <= 1.05 * best_latency_ms(of)


def test_each_numeric_path_is_judged_once_and_finalists_judge_their_own_answers(tmp_path: Path) -> None:
    axes = {"dtype": ["fp32", "int8"], "workers": [1, 2], "batch_size": [1, 2, 4], "max_batch_delay_ms": [0, 5]}
    search = {"trials": TRIALS, "confirm": {"finalists": 2, "repetitions": 1}}
    of = scenario(search, space=[{"engine": "ctranslate2", **axes}])
    result = _run(Bench(of, tmp_path / "study.db"))
    declared = plan(of).blocks[0].changes_answers
    searched = [trial for trial in result.trials if not trial.repetition]
    judged = [trial for trial in searched if trial.is_judged]
    paths = [numeric_path(trial.candidate, declared) for trial in judged]
    assert len(judged) <= 4, "fp32 is one path, int8 one for each batch size"
    assert all(paths.count(path) == 1 for path in paths)
    origins = {trial.trial_id: numeric_path(trial.candidate, declared) for trial in judged}
    assert len(searched) >= 8
    for trial in searched:
        if trial.quality is not None and trial.quality.inherited_from:
            assert origins[trial.quality.inherited_from] == numeric_path(trial.candidate, declared)
            assert trial.quality.verdict == trial_of(trial.candidate, 1, of).quality.verdict  # type: ignore[union-attr]
    assert [trial.is_judged for trial in result.trials if trial.repetition] == [True, True]


@pytest.mark.parametrize("confirm", [{"finalists": 0}, {"repetitions": 0}])
def test_nothing_is_inherited_where_no_finalist_is_measured_again(tmp_path: Path, confirm: dict[str, int]) -> None:
    result = _run(Bench(scenario({"trials": TRIALS, "confirm": confirm}), tmp_path / "study.db"))
    assert all(trial.is_judged for trial in result.trials if trial.outcome == "ok")
