"""The recommendation on a terminal: what stands in it, and how wide it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.choose.recommendation import choose
from harness.choose.text import WIDTH, as_text, wrapped
from harness.store.reader import read_run
from tests.harness.choose.runs import candidate, store, trial


def _text(root: Path, most_losses: int | None = None) -> str:
    slow = [trial(n, candidate(batch_size=n), (60.0 + n, 59.0 + n, 61.0 + n)) for n in range(1, 5)]
    folder = store(root, [*slow, trial(5, candidate("ctranslate2"), (20.1, 19.8, 20.6))])
    return as_text(choose(read_run(folder)), most_losses)


def test_the_answer_fits_its_width_and_begins_with_the_choice(tmp_path: Path) -> None:
    lines = _text(tmp_path).splitlines()
    assert lines[0] == "Recommendation: ctranslate2 fp32, batch 1, 1 worker"
    assert any(line.startswith("  P50           20.1 ms [19.8, 20.6]") for line in lines)
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= WIDTH


def test_every_loser_has_its_reason_unless_fewer_are_asked_for(tmp_path: Path) -> None:
    losers = [line for line in _text(tmp_path / "all").splitlines() if line.startswith("  transformers")]
    assert [line[:30] for line in losers] == [f"  transformers fp32, batch {n}, " for n in range(1, 5)]
    short = _text(tmp_path / "two", 2).splitlines()
    assert sum(line.startswith("  transformers") for line in short) == 2
    assert short[-1] == "  and 2 more, which `dyno report` lists"


def test_a_long_sentence_goes_on_below_its_beginning_and_breaks_no_name() -> None:
    name = "results/local/" + "x" * 120
    assert wrapped("Run: ", f"{'word ' * 20}{name}").splitlines() == [
        "Run: " + "word " * 18 + "word",
        "     word",
        "     " + name,
    ]


def test_the_first_line_says_where_quality_was_not_measured(tmp_path: Path) -> None:
    unchecked = replace(trial(1, candidate(), (20.1, 19.8, 20.6)), quality=None)
    text = as_text(choose(read_run(store(tmp_path, [unchecked], constraints={}))))
    assert text.splitlines()[0].endswith(" (quality not measured)")
