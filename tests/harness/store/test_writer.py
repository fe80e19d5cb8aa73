"""Writing a run: whole or absent, locked, resumable after a kill, readable by pandas."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import EnvironmentFault, UsageError
from harness.records import RequestRecord
from harness.store import disk
from harness.store.answers import read_outputs
from harness.store.reader import read_request_records, read_requests, read_run
from harness.store.writer import RunWriter
from tests.harness.store.trials import a_manifest, a_trial, requests


@pytest.fixture
def writer(tmp_path: Path):  # type: ignore[no-untyped-def]
    with RunWriter.create(tmp_path, a_manifest()) as opened:
        yield opened


def _files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_run_is_read_back_as_it_was_written(writer: RunWriter) -> None:
    written = [a_trial(0), a_trial(1, outcome="crashed", reason='ended: "signal 9"\nlast line', summary=None)]
    for trial in written:
        writer.append_trial(trial)
    run = read_run(writer.layout.root)
    assert run.trials == tuple(written)
    assert run.manifest == a_manifest()
    assert run.notes == ()


def test_the_folder_is_named_by_scenario_time_and_digest(writer: RunWriter, tmp_path: Path) -> None:
    root = writer.layout.root
    assert root.parent == tmp_path / "quickstart"
    assert root.name.endswith("Z-0123456789")


def test_two_runs_in_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, a_manifest()) as one, RunWriter.create(tmp_path, a_manifest()) as two:
        assert one.layout.root != two.layout.root


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(records=st.lists(requests, max_size=5))
def test_request_records_survive_parquet_exactly(writer: RunWriter, records: Sequence[RequestRecord]) -> None:
    writer.write_requests("t0", records)
    assert read_request_records(writer.layout.root, "t0") == tuple(records)


def test_pandas_reads_the_raw_records_in_one_line(writer: RunWriter) -> None:
    record = RequestRecord(
        seq=0, user=1, prompt_ids=("a", "b"), intended_ns=10, sent_ns=11, first_token_ns=None, done_ns=2_000_010,
        outcome="ok", status_code=200, input_tokens=3, output_tokens=None, output_ids=("0.0",), is_warmup=False,
    )  # fmt: skip
    path = writer.write_requests("t0", [record])
    frame = pd.read_parquet(path)
    assert frame.latency_ms.tolist() == [2.0]
    assert list(frame.prompt_ids[0]) == ["a", "b"]
    assert read_requests(writer.layout.root, "t0").equals(frame)


def test_outputs_survive_with_any_character(writer: RunWriter) -> None:
    outputs = {"0.0": "one\ntwo", "0.1": "naïve \u2028 日本", "q:date-1": ""}
    writer.write_outputs("t0", outputs)
    assert read_outputs(writer.layout.root, "t0") == outputs


@pytest.mark.heavy
def test_a_second_writer_is_refused_and_told_who_writes(writer: RunWriter) -> None:
    code = (
        "import sys; from pathlib import Path; from harness.store.writer import RunWriter; "
        "from harness.errors import EnvironmentFault\n"
        "try: RunWriter.resume(Path(sys.argv[1]))\n"
        "except EnvironmentFault as fault: print(fault); sys.exit(3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(writer.layout.root)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 3, done.stderr
    assert f"process {os.getpid()} is writing this run" in done.stdout


def test_the_lock_ends_with_the_writer(writer: RunWriter) -> None:
    root = writer.layout.root
    writer.close()
    with RunWriter.resume(root) as again:
        again.append_trial(a_trial(7))
    assert [trial.number for trial in read_run(root).trials] == [7]


def test_resuming_cuts_a_torn_line_and_appends_after_it(writer: RunWriter) -> None:
    writer.append_trial(a_trial(0))
    writer.close()
    with writer.layout.trials_jsonl.open("ab") as file:
        file.write(b'{"format":1,"trial_id":"t1","numb')
    with RunWriter.resume(writer.layout.root) as again:
        again.append_trial(a_trial(2))
    run = read_run(writer.layout.root)
    assert [trial.number for trial in run.trials] == [0, 2]
    assert run.notes == ()


def test_resuming_what_is_no_run_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        RunWriter.resume(tmp_path)


def _fill_disk(monkeypatch: pytest.MonkeyPatch, after_bytes: int) -> None:
    """os.write takes `after_bytes` more bytes, then fails as a full disk does: partly, then not at all."""
    real, left = os.write, after_bytes

    def write(descriptor: int, data: bytes) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = bytes(data[:left])
        left -= len(part)
        return real(descriptor, part)

    monkeypatch.setattr(disk.os, "write", write)


def test_a_disk_that_fills_up_in_a_trial_line_leaves_the_file_as_it_was(
    writer: RunWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.append_trial(a_trial(0))
    before = writer.layout.trials_jsonl.read_bytes()
    with monkeypatch.context() as full:
        _fill_disk(full, after_bytes=40)
        with pytest.raises(EnvironmentFault, match="the disk is full") as fault:
            writer.append_trial(a_trial(1))
    assert str(writer.layout.trials_jsonl) in str(fault.value)
    assert writer.layout.trials_jsonl.read_bytes() == before
    writer.append_trial(a_trial(1))
    assert len(read_run(writer.layout.root).trials) == 2


def test_a_full_disk_leaves_no_half_written_answers(writer: RunWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.write_outputs("t0", {"0.0": "old"})
    before = _files(writer.layout.root)
    with monkeypatch.context() as full:
        _fill_disk(full, after_bytes=5)
        with pytest.raises(EnvironmentFault, match="the disk is full"):
            writer.write_outputs("t0", {"0.0": "new" * 100})
        with pytest.raises(EnvironmentFault, match="the disk is full"):
            writer.write_outputs("t1", {"0.0": "new" * 100})
    assert _files(writer.layout.root) == before
    assert read_outputs(writer.layout.root, "t0") == {"0.0": "old"}


def test_a_full_disk_leaves_no_half_written_parquet(writer: RunWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    def write_half(table: object, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"PAR1")
        raise OSError(errno.ENOSPC, "No space left on device")

    before = _files(writer.layout.root)
    monkeypatch.setattr(pq, "write_table", write_half)
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        writer.write_requests("t0", [])
    assert _files(writer.layout.root) == before


def test_a_run_that_cannot_be_begun_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill_disk(monkeypatch, after_bytes=0)
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        RunWriter.create(tmp_path, a_manifest())
    assert list((tmp_path / "quickstart").iterdir()) == []


def test_a_results_folder_that_cannot_be_made_is_an_environment_fault(tmp_path: Path) -> None:
    (tmp_path / "quickstart").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        RunWriter.create(tmp_path, a_manifest())


def test_dev_full_really_is_reported_as_a_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    def fill(partial: Path) -> None:
        partial.write_bytes(b"some")
        Path("/dev/full").write_bytes(b"x")

    with pytest.raises(EnvironmentFault, match="the disk is full"):
        disk.write_whole(tmp_path / "file", fill)
    assert list(tmp_path.iterdir()) == []


def test_trials_are_one_json_object_per_line(writer: RunWriter) -> None:
    writer.append_trial(a_trial(0))
    frame = pd.read_json(writer.layout.trials_jsonl, lines=True)
    assert frame.trial_id.tolist() == ["t0000"]
    assert json.loads(writer.layout.trials_jsonl.read_text())["format"] == 1
