"""Publishing of a run: `python -m tests.docs.publish RUN` fills results/published/<scenario>/ from that run folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness.report.content.result_table import report_table
from harness.report.text.table_formats import as_markdown
from harness.store.reader import read_run

ROOT = Path(__file__).parents[2]
FACTS = ("digest", "created_utc", "git", "dyno_version", "machine", "versions")
"""What machine.json keeps of run.json."""


def publish(run: Path, folder: Path) -> None:
    """Write machine.json, table.md and trials.jsonl of the run folder `run` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = json.loads((run / "run.json").read_text(encoding="utf-8"))
    machine = json.dumps({name: stored[name] for name in FACTS}, indent=1)
    (folder / "machine.json").write_text(machine + "\n", encoding="utf-8")
    (folder / "table.md").write_text(as_markdown(report_table(read_run(run))) + "\n", encoding="utf-8")
    trials = (run / "trials.jsonl").read_text(encoding="utf-8").replace(str(Path.home()), "~")
    (folder / "trials.jsonl").write_text(trials, encoding="utf-8")


def main() -> None:
    """Publish the run that the command line names."""
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "run.json").is_file():
        raise SystemExit("expected: python -m tests.docs.publish RUN, the folder of a run")
    run = Path(sys.argv[1])
    publish(run, ROOT / "results" / "published" / run.resolve().parent.name)


if __name__ == "__main__":
    main()
