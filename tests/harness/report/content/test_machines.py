"""The machines of a run in its report: how they compare, and whose trials are not ranked."""

from __future__ import annotations

from dataclasses import replace

from harness.measure.machine.calibration import MachineOfRun, Ratio
from harness.report.content.machines import machines
from harness.report.content.result_table import report_table
from harness.report.content.run_summary import story_of
from harness.report.figures.search import progress
from harness.report.page.run_page import page
from harness.report.wording.numbers import ABSENT
from tests.harness.choose.runs import candidate, run_of, trial


def test_a_report_lists_each_machine_and_ranks_no_trial_of_one_set_aside() -> None:
    plain = run_of(trial(1, candidate(), (20.0, 19.8, 20.6)), trial(2, candidate(batch_size=4), (10.0, 9.9, 10.1)))
    assert machines(story_of(plain)) is None
    ratio = Ratio(value=1.1, low=1.06, high=1.15, launches=6)
    listed = (
        MachineOfRun(machine_id="a", machine_class="k"),
        MachineOfRun(machine_id="b", machine_class="k", ratio=ratio, ranked="set_aside", why="it is slower"),
    )
    first, second = plain.trials
    trials = (replace(first, machine="a"), replace(second, machine="b", unranked="it is slower"))
    run = replace(plain, trials=trials, manifest=replace(plain.manifest, machines=listed))
    section = machines(story_of(run))
    assert section is not None
    assert [[cell.text for cell in row] for row in section.rows] == [
        ["a", "k", "1", ABSENT, ABSENT, "ranked"],
        ["b", "k", "1", "1.100 [1.060, 1.150]", "6", "not ranked: it is slower"],
    ]
    table = report_table(run)
    assert [(row.trial.number, row.mark) for row in table.rows] == [(1, "best"), (2, "not ranked")]
    assert "not ranked: the trials of machine b, since it is slower." in table.notes
    assert "not ranked: it is slower" in page(run, table)
    assert "not ranked" in [points.get("name") for points in progress(run)["data"]]
