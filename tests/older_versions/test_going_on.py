"""A search interrupted at c252706 is resumed, and its checkout is measured beside this one by `dyno gate`."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from harness.measure.machine.facts import machine_facts
from tests.end_to_end.commands import ROOT, dyno, environment_of
from tests.older_versions.written_then import COMMIT, FOLDER, HALFWAY, RUNS

pytestmark = pytest.mark.heavy

THEIR_CHECKOUT = "/home/user/dynamometer"
"""Where the stored runs say their checkout lay."""


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of c252706 as git stores it: nothing built, no virtual environment."""
    git = ["git", "-C", str(ROOT)]
    known = subprocess.run([*git, "cat-file", "-e", f"{COMMIT}^{{commit}}"], capture_output=True)
    if known.returncode != 0:
        shallow = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True)
        assert shallow.stdout.strip() != "false", f"{COMMIT} is not in the history of {ROOT}"
        pytest.skip("the history that holds c252706 is not here (a shallow clone, or no clone): git fetch --unshallow")
    archive = subprocess.run([*git, "archive", COMMIT, "engines", "harness"], capture_output=True, check=True)
    root = tmp_path_factory.mktemp("c252706")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(root, filter="data")
    return root


def test_an_interrupted_search_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "scenarios", tmp_path / "scenarios")
    run = shutil.copytree(HALFWAY, tmp_path / "results" / "halfway" / HALFWAY.name)
    manifest = run / "run.json"
    stored = json.loads(manifest.read_text().replace(THEIR_CHECKOUT, str(ROOT)))
    manifest.write_text(json.dumps({**stored, "machine": machine_facts()}))  # a search goes on on machines of its class
    before = (run / "trials.jsonl").read_bytes()

    done = dyno("tune", "scenarios/halfway.yaml", "--results", "results", "--no-verify", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr

    assert [each.name for each in run.parent.iterdir()] == [HALFWAY.name]
    after = (run / "trials.jsonl").read_bytes()
    assert after.startswith(before)
    trials = [json.loads(line) for line in after.splitlines()]
    assert [trial["number"] for trial in trials] == [1, 2, 3, 4, 5]
    assert [trial["outcome"] for trial in trials] == ["ok", "ok", "interrupted", "ok", "ok"]
    measured = [trial["candidate"]["options"]["service_ms"] for trial in trials if trial["outcome"] == "ok"]
    assert sorted(measured) == [10, 15, 20, 25]
    assert json.loads((run / "search.json").read_text())["stop"] == "exhausted"


def test_a_checkout_of_then_is_measured_beside_this_one(checkout: Path, tmp_path: Path) -> None:
    """Whatever the verdict on a busy machine is: both sides are launched and measured, and nothing is broken."""
    done = dyno(
        "gate", "--scenario", str(FOLDER / "scenarios" / "gated.yaml"), "--baseline-ref", str(checkout),
        "--repetitions", "2", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode in (0, 1, 4), done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["refusals"] == []
    found = {row["metric"]: row for row in answer["comparisons"]}
    assert found["latency_p50_ms"]["launches"] == [2, 2]
    assert found["error_frac"]["baseline"] == found["error_frac"]["candidate"] == 0.0
    assert found["reference_match_frac"]["baseline"] == found["reference_match_frac"]["candidate"] == 1.0
    before, after = sorted((tmp_path / "results" / "local" / "gated").iterdir(), key=lambda run: len(run.name))
    for run in (before, after):
        assert [json.loads(line)["outcome"] for line in (run / "trials.jsonl").read_text().splitlines()] == ["ok"] * 2


def test_a_stored_run_of_then_is_the_baseline_of_a_measurement_now(tmp_path: Path) -> None:
    done = dyno(
        "gate", "--scenario", str(FOLDER / "scenarios" / "gated.yaml"), "--baseline", str(RUNS["before"]),
        "--allow-different-machine", "--repetitions", "2", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode in (0, 1, 4), done.stdout + done.stderr
    found = {row["metric"]: row for row in json.loads(done.stdout)["comparisons"]}
    assert found["latency_p50_ms"]["launches"] == [5, 2]


def test_an_unbuilt_checkout_of_then_is_refused_in_one_sentence(checkout: Path, tmp_path: Path) -> None:
    """A checkout brings its own native library, beside its own engines/t5; this one's is not lent to it."""
    assert not list(checkout.rglob("libt5k*"))
    done = dyno(
        "gate", "--scenario", str(FOLDER / "scenarios" / "bundled.yaml"), "--baseline-ref", str(checkout), cwd=tmp_path
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "the baseline checkout cannot serve t5 fp32" in done.stderr
    assert "libt5k" in done.stderr
    assert "Traceback" not in done.stderr


LAUNCH = """
import sys
from pathlib import Path
from engines.api import EngineSpec
from engines.registry import load_engine
other, workdir = map(Path, sys.argv[1:])
spec = EngineSpec(engine="fake", model_dir=other, source_root=other, options={"service_ms": 3})
with load_engine("fake").launch(spec, workdir, 60.0) as running:
    print(running.facts.effective_dtype, running.endpoint.protocol, running.failure())
"""


def test_a_checkout_of_then_launches_the_server_of_this_one(checkout: Path, tmp_path: Path) -> None:
    """The other way round, for who gates an old branch against a new one: the server's command line is a contract."""
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, str(ROOT), str(tmp_path)],
        cwd=tmp_path, env=environment_of(checkout), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == "fp32 djl None\n", done.stderr
