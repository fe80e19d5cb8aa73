"""`dyno gate` by the real command line on real runs of the fake engine."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from harness.measure.machine.machine_class import class_of
from tests.end_to_end.commands import ROOT, dyno, dyno_here

SCENARIO = """
name: gated
workload:
  load: {kind: closed, users: 1}
  warmup_requests: 2
  requests: 40
  max_duration_s: 6
quality: {prompts: 4}
space:
  - {engine: fake, options: {law: constant, service_ms: 20}}
search: {sampler: grid, trials: 1, confirm: {finalists: 0}}
"""
RULES = """
# The machine of a test run may be busy, and a constant law of 20 ms then wanders by tens of percent: wide budgets and a
# large change. How small a change is found is tests/harness/gate/test_calibration.py's question.
metrics:
  latency_p50_ms: {max_increase_frac: 0.5}
  latency_p99_ms: {ignore: true}
  throughput_rps: {max_decrease_frac: 0.4}
  peak_memory_mib: {ignore: true}
  error_frac: {max_increase: 0.05}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gated.yaml").write_text(SCENARIO)
    (tmp_path / "rules.yaml").write_text(RULES)
    return tmp_path


def checkout(folder: Path, *, service_factor: float = 1.0) -> Path:
    """A copy of this project's engines whose fake engine takes `service_factor` times as long as it is told to."""
    root = folder / "other"
    shutil.copytree(ROOT / "engines", root / "engines", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    law = root / "engines" / "adapters" / "fake_latency.py"
    text = law.read_text()
    assert "return self.service_ms\n" in text
    law.write_text(text.replace("return self.service_ms\n", f"return self.service_ms * {service_factor}\n"))
    return root


def test_side_by_side_the_same_law_passes_and_every_output_says_so(folder: Path) -> None:
    done = dyno(
        "gate", "--scenario", "gated.yaml", "--baseline-ref", str(checkout(folder)), "--rules", "rules.yaml",
        "--repetitions", "5", "--junit", "gate.xml", "--markdown", "gate.md", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("pass: all 5 comparisons")
    assert "measured side by side in 5 pairs" in done.stdout
    suite = ET.parse(folder / "gate.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("5", "0", "0")
    assert (folder / "gate.md").read_text().startswith("### ✅ pass")
    runs = sorted((folder / "results" / "local" / "gated").iterdir())
    assert [len((run / "trials.jsonl").read_text().splitlines()) for run in runs] == [5, 5]

    again = dyno_here(["gate", "--baseline", str(runs[0]), "--rules", "rules.yaml", "--json"], folder)
    assert again.returncode == 0, again.stdout + again.stderr
    answer = json.loads(again.stdout)
    assert (answer["verdict"], len(answer["comparisons"])) == ("pass", 5)

    single = dyno_here(["gate", "--baseline", str(runs[0])], folder)  # default budgets ask for p99: 200 are few
    assert single.returncode in (1, 4), single.stdout
    assert "latency_p99_ms needs 368" in single.stdout

    exported = dyno_here(["gate", "--baseline", str(runs[0]), "--export", "baseline"], folder)
    assert exported.returncode == 0, exported.stderr
    assert not list((folder / "baseline").rglob("logs"))
    small = dyno_here(["gate", "--baseline", "baseline", "--candidate", str(runs[1]), "--rules", "rules.yaml"], folder)
    assert small.returncode == 0, small.stdout + small.stderr

    manifest = json.loads((folder / "baseline" / "run.json").read_text())
    assert str(folder) not in json.dumps(manifest)
    manifest["machine"]["cpu_model"] = "Other CPU"
    (folder / "baseline" / "run.json").write_text(json.dumps(manifest))
    lines = [json.loads(line) for line in (folder / "baseline" / "trials.jsonl").read_text().splitlines()]
    there = {"machine_class": class_of(manifest["machine"])}
    (folder / "baseline" / "trials.jsonl").write_text("".join(json.dumps(line | there) + "\n" for line in lines))
    refused = dyno_here(["gate", "--baseline", "baseline", "--rules", "rules.yaml"], folder)
    assert refused.returncode == 4
    assert "cpu_model: baseline Other CPU" in refused.stdout
    allowed = dyno_here(
        ["gate", "--baseline", "baseline", "--rules", "rules.yaml", "--allow-different-machine"], folder
    )
    assert "about the pair (machine, code)" in allowed.stdout


def test_side_by_side_a_slower_law_is_regressed(folder: Path) -> None:
    """The other checkout is the faster one: its service time is a fifth of what it is told, so this one is worse."""
    done = dyno(
        "gate", "--scenario", "gated.yaml", "--baseline-ref", str(checkout(folder, service_factor=0.2)),
        "--rules", "rules.yaml", "--repetitions", "5", "--json", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found = {each["metric"]: each for each in json.loads(done.stdout)["comparisons"]}
    assert found["latency_p50_ms"]["verdict"] == "regressed"
    assert found["latency_p50_ms"]["low"] > 0.5


def test_one_launch_against_a_stored_run_cannot_tell(folder: Path) -> None:
    assert dyno("tune", "gated.yaml", "--no-verify", cwd=folder).returncode == 0
    done = dyno(
        "gate", "--scenario", "gated.yaml", "--baseline", "gated", "--rules", "rules.yaml", "--repetitions", "1",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 4, done.stdout + done.stderr
    assert done.stdout.startswith("cannot tell:")
    assert "would settle " in done.stdout


def test_a_baseline_that_cannot_serve_is_told_in_one_sentence(folder: Path) -> None:
    """A baseline that cannot serve is the machine's fault, said in one sentence; nothing is judged."""
    root = checkout(folder)
    (root / "engines" / "server" / "__main__.py").write_text("raise SystemExit('no server in this checkout')\n")
    done = dyno("gate", "--scenario", "gated.yaml", "--baseline-ref", str(root), cwd=folder)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "the baseline checkout cannot serve fake fp32" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "nowhere"], "run 'nowhere'"),
        ([], "expected --baseline RUN"),
        (["--baseline-ref", "."], "expected --scenario FILE"),
        (["--scenario", "gated.yaml", "--baseline-ref", "."], "no engines/server in it"),
        (["--scenario", "gated.yaml", "--candidate", "x", "--baseline", "y"], "leave --candidate out"),
        (["--baseline", "damaged", "--candidate", "damaged"], "damaged"),
        (["--baseline", "x", "--rules", "none.yaml"], "expected a rules file"),
    ],
)
def test_bad_input_is_one_sentence(folder: Path, arguments: list[str], message: str) -> None:
    (folder / "damaged").mkdir()
    (folder / "damaged" / "run.json").write_text("{")
    done = dyno_here(["gate", *arguments], folder)
    assert done.returncode in (2, 3)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
