"""With `keep_texts: false` a run folder holds no prompt, answer or word of a refusal, and is judged as before."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.errors import MeasurementInvalid, UsageError
from harness.gate.quality_answers import Answers, answers_of
from harness.records import Candidate, Trial
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.store.answers import digest, read_answer_rows, read_outputs
from harness.store.codec import to_json
from harness.store.reader import read_request_records
from harness.store.writer import RunWriter
from harness.trial.bench import Bench
from harness.trial.progress import Lines
from harness.trial.without_texts import texts_of
from tests.harness.load.odd_server import Odd, echo, odd_server
from tests.harness.load.plans import plan_of, run_load
from tests.harness.store.trials import a_manifest

SECRET = "xyzzyplugh"
SCENARIO = """
name: s
keep_texts: %s
workload: {prompts: p.jsonl, load: {kind: closed, users: 2}, warmup_requests: 2, requests: 12, max_duration_s: 30}
quality: {prompts: 4}
space: [{engine: %s}]
"""


def _run(tmp_path: Path, candidate: Candidate, keeps: str = "false") -> tuple[Trial, Path]:
    prompts = ({"id": f"p{n}", "task": "t", "text": f"{SECRET} number {n}", "reference": f"{SECRET}"} for n in range(6))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    path = tmp_path / "s.yaml"
    options = f", options: {json.dumps(dict(candidate.options))}" if candidate.options else ""
    path.write_text(SCENARIO % (keeps, candidate.engine + options))
    new_run = partial(RunWriter.create, tmp_path / f"results-{keeps}", a_manifest())
    with Bench.open(resolve(load_scenario(path), path), new_run, progress=Lines(lambda line: None)) as bench:
        trial = bench.run(candidate, 1)
        bench.writer.layout.trials_jsonl.write_text(json.dumps(to_json(trial)))
        return trial, bench.writer.layout.root


def _holding(root: Path, words: str) -> list[str]:
    found = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and words in _text(path)]
    return sorted(found)


def _text(path: Path) -> str:
    if path.suffix == ".parquet":
        import pandas as pd

        return str(pd.read_parquet(path).to_dict())
    return path.read_bytes().decode("utf-8", "replace")


@pytest.mark.heavy
def test_no_prompt_and_no_answer_is_left_and_the_quality_is_that_of_texts(tmp_path: Path) -> None:
    candidate = Candidate(block=0, engine="fake")
    trial, root = _run(tmp_path, candidate)
    kept, kept_root = _run(tmp_path, candidate, keeps="true")
    assert _holding(root, SECRET) == []
    assert "reference.json" in _holding(kept_root, SECRET)  # the words are looked for where they are kept
    assert trial.outcome == kept.outcome == "ok"
    assert trial.quality is not None
    assert kept.quality is not None
    assert (trial.quality.verdict, trial.quality.reason) == (kept.quality.verdict, kept.quality.reason)
    with pytest.raises(UsageError, match="answers without their texts"):
        read_outputs(root, trial.trial_id)
    texts = read_outputs(kept_root, kept.trial_id)
    rows = {row["id"]: row for row in read_answer_rows(root, trial.trial_id)}
    assert rows["q:p0"] == {"id": "q:p0", "sha256": digest(texts["q:p0"]), "characters": len(texts["q:p0"])}
    both = Answers(before=answers_of(kept_root, kept.trial_id), now=answers_of(root, trial.trial_id))
    assert len(both.before) == 4
    assert both.differing == ()


@pytest.mark.heavy
def test_a_refusal_that_repeats_the_prompt_leaves_its_status(tmp_path: Path) -> None:
    def refuse(odd: Odd, body: dict[str, Any]) -> None:
        if body and str(body["inputs"])[-1] in "024":
            odd.answer(json.dumps({"message": f"cannot read {body['inputs']}"}).encode(), status=400)
        elif body:
            echo(odd, body)
        else:
            odd.answer(b"{}", status=404)

    with odd_server(refuse) as url:
        candidate = Candidate(block=0, engine="attach", options={"url": f"{url}/invocations"})
        trial, root = _run(tmp_path, candidate)
        kept, kept_root = _run(tmp_path, candidate, keeps="true")
    assert _holding(kept_root, f"cannot read {SECRET}")
    assert _holding(root, SECRET) == []
    failed = [record for record in read_request_records(root, trial.trial_id) if record.outcome != "ok"]
    assert {record.error for record in failed} == {"HTTP 400, its words not kept (keep_texts: false)"}
    assert kept.summary is not None
    assert trial.summary is not None
    assert trial.summary.metrics.keys() == kept.summary.metrics.keys()
    assert f"{url}/metrics answers 404" in trial.summary.unavailable["engine metrics"]


@pytest.mark.heavy
def test_a_load_that_fails_leaves_nothing_that_it_sent(tmp_path: Path) -> None:
    with odd_server(echo) as url:
        for keeps in (True, False):
            folder = tmp_path / str(keeps)
            with pytest.raises(MeasurementInvalid), texts_of(folder / "load", keeps):
                run_load(plan_of(url), folder, _fail)
            assert (folder / "load" / "plan.json").exists() == keeps


def _fail() -> str | None:
    raise MeasurementInvalid("the machine went away")


def test_equal_answers_have_equal_digests_white_space_at_the_ends_aside() -> None:
    assert digest(" a b\n") == digest("a b") != digest("a  b")
    assert digest("\ud800")
