"""What it takes to add an axis, a metric, a load kind, an engine: stored patches, and where each must then appear."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATCHES = Path(__file__).parent / "patches"
COPIED = ("engines", "harness", "scenarios")

SCENARIO = """
name: added
workload: {load: {kind: closed, users: 2}, warmup_requests: 2, requests: 20, max_duration_s: 3}
quality: {prompts: 2}
space: [{engine: fake, options: {service_ms: 100}}]
search: {sampler: grid, trials: 2, max_minutes: 2, confirm: {finalists: 0}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """One stored patch, patches/<name>.patch, and where the thing that it adds must appear.

    `files` is how many files it touches. `uses` are `--set` overrides of SCENARIO that use the new thing; `misspelt` is
    one more, which `scenario check` refuses with the sentence `refusal`. `seen` maps a command (check, tune, report,
    recommend) or a pattern of files in the run folder to a regular expression that its output must match.
    """

    name: str
    files: int
    uses: tuple[str, ...]
    misspelt: str
    refusal: str
    seen: Mapping[str, str]

    def patched_tree(self, tree: Path) -> Path:
        """A copy of this checkout's sources in `tree`, with the patch applied; fails where it touches other files."""
        for name in COPIED:
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        patch = PATCHES / f"{self.name}.patch"
        touched = _git(tree, "apply", "--numstat", str(patch)).splitlines()
        assert len(touched) == self.files, touched
        _git(tree, "apply", "-C1", str(patch))
        return tree


def _git(tree: Path, *arguments: str) -> str:
    """git in a folder that is no repository, whatever lies around it."""
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    done = subprocess.run(["git", *arguments], cwd=tree, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}\nmake the patch anew: git diff > tests/architecture/patches/NAME.patch"
    return done.stdout


ADDITIONS = (
    Addition(
        name="axis",
        files=3,
        uses=("space.0.prefill_chunk_tokens=[64, 128]",),
        misspelt="space.0.prefil_chunk_tokens=64",
        refusal="did you mean 'prefill_chunk_tokens'?",
        seen={
            "tune": r"prefill (64|128) tokens",
            "trials.jsonl": r'"prefill_chunk_tokens": ?64\b(.|\n)*prefills 128 tokens at a time',
            "logs/t*/serving.properties": r"option\.prefill_chunk_tokens=128\n",
            "report": r"\| Prefill chunk \(tokens\) \|",
            "report.html": r"Prefill chunk \(tokens\)",
            "recommend": r"prefill (64|128) tokens",
            "recommendation/serving.properties": r"option\.prefill_chunk_tokens=(64|128)\n",
        },
    ),
    Addition(
        name="metric",
        files=2,
        uses=("objectives=[{metric: latency_min_ms, goal: minimize}]",),
        misspelt="objectives.0.metric=latency_minn_ms",
        refusal="did you mean 'latency_min_ms'?",
        seen={
            "tune": r"latency_min_ms [\d.]+ ms",
            "trials.jsonl": r'"latency_min_ms": ?\{"value"',
            "report": r"\| Latency min \(ms\) \|",
            "report.html": r"Latency min \(ms\)",
            "recommend": r"latency min +[\d.]+ ms",
            "recommendation/serving.properties": r"latency_min_ms: [\d.]+ ms",
        },
    ),
    Addition(
        name="load_kind",
        files=2,
        uses=("workload.load={kind: spike, rate_rps: 2, spike_rps: 6, spike_s: 0.5}",),
        misspelt="workload.load={kind: spyke, rate_rps: 20, spike_rps: 60}",
        refusal="did you mean 'spike'?",
        seen={
            "tune": r"Recommendation",
            "run.json": r'"kind": "spike"',
            "report": r"spike",
            "recommend": r"Recommendation",
        },
    ),
    Addition(
        name="engine",
        files=4,
        uses=("space.0={engine: parrot, options: {greeting: [awk, hello]}}",),
        misspelt="space.0={engine: parrott}",
        refusal="did you mean 'parrot'?",
        seen={
            "check": r"parrot",
            "tune": r"parrot fp32, batch 1, 1 worker, greeting=(awk|hello)",
            "trials.jsonl": r"repeats what it hears",
            "outputs/t*.jsonl": r"awk ",
            "logs/t*/serving.properties": r"option\.entryPoint=engines\.parrot\n",
            "report": r"parrot",
            "report.html": r"parrot",
            "recommend": r"parrot fp32",
            "recommendation/serving.properties": r"option\.entryPoint=engines\.parrot\n",
        },
    ),
)
