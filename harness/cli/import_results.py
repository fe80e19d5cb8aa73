"""`dyno import`: reads results of other tools into run folders that report and gate read."""

from __future__ import annotations

from pathlib import Path

import click

from harness.imported.files import results_in
from harness.imported.runs import write_runs
from harness.store.layout import DEFAULT_RESULTS
from harness.store.reader import read_run


@click.command("import", epilog="Exit: 0 ok, 2 usage (no such file, or not a result), 3 the disk refuses.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--results", type=click.Path(path_type=Path), help="Folder of the runs (default results/local).")
def command(files: tuple[Path, ...], results: Path | None) -> None:
    """Read results of AIPerf, GuideLLM, vllm bench serve, inference-perf or llama-bench from each FILE.

    Where a tool kept its requests, the metrics are computed anew from them, by the definitions of every other run, and
    can be gated. Its own numbers stand beside them and are never ranked. Results of one tool, model and load become
    the trials of one run; of a tool that writes several files any one is enough.

    \b
    Examples:
      dyno import artifacts/profile_export.jsonl
      dyno import before.json && dyno import after.json
      dyno gate --baseline RUN-BEFORE --candidate RUN-AFTER
    """
    written = write_runs(results_in(files), results or DEFAULT_RESULTS)
    for root in written:
        run = read_run(root)
        requests = sum(trial.summary is not None and bool(trial.summary.metrics) for trial in run.trials)
        kept = "its requests measured anew" if requests else "its own numbers alone: it kept no requests"
        assert run.manifest.imported is not None
        click.echo(f"wrote {root} ({run.manifest.imported.by}; {kept})", err=True)
    click.echo(f"Next: dyno report {written[0]}")
