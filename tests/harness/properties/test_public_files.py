"""Files that AWS published, against the container that their notebook names: no error where upstream reads the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.properties.lint.findings import lint
from tests.harness.properties.upstream.table import load_facts

FILES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "public_files.json").read_text())["files"]
FACTS = {facts["branch"]: facts for facts in load_facts().values()}
IDS = [f"{row['repository'].split('/')[1]}:{Path(row['path']).stem}:{row['cell']}" for row in FILES]


def _text(row: dict[str, Any]) -> str:
    sign = " = " if row["blanks"] else "="
    return "".join(f"{key}{sign}{value}\n" for key, value in row["values"])


def _script(row: dict[str, Any]) -> str:
    names = row["script"]
    return "" if names is None else "\n".join(["def handle(inputs):", *(f'    properties["{name}"]' for name in names)])


def test_there_are_enough_of_them() -> None:
    assert len(FILES) >= 85
    assert {row["repository"] for row in FILES} == {
        "aws/amazon-sagemaker-examples",
        "deepjavalibrary/djl-demo",
        "aws-samples/sagemaker-genai-hosting-examples",
    }


@pytest.mark.parametrize("row", FILES, ids=IDS)
def test_the_linter_finds_what_is_wrong_and_nothing_else(row: dict[str, Any]) -> None:
    findings = lint(_text(row), row["container"], script=_script(row))
    assert {finding.key for finding in findings if finding.severity == "error"} <= set(row["faults"])
    assert set(row["faults"]) <= {finding.key for finding in findings}


@pytest.mark.parametrize("row", FILES, ids=IDS)
def test_every_verdict_has_its_source(row: dict[str, Any]) -> None:
    branch, commit = row["upstream"].split()
    assert FACTS[branch]["commit"] == commit
    assert len(row["commit"]) == 40
    assert set(row["proof"]) | set(row["faults"]) == {key for key, _ in row["values"]}
    for key, proof in row["proof"].items():
        if proof == "own script":
            assert key.removeprefix("option.") in row["script"]
        elif proof.startswith("nobody"):
            assert row["script"] is not None
        elif "deepjavalibrary/djl)" not in proof:
            assert _reads(FACTS[branch], proof, key.removeprefix("option.")), (key, proof)
    assert all(fault["why"] and fault["source"] for fault in row["faults"].values())


def _reads(facts: dict[str, Any], proof: str, key: str) -> bool:
    """Whether the facts have a reader of that file and class that reads the key or hands every option on."""
    file, _, name = proof.partition(" ")
    found = [r for r in facts["readers"] if r["file"] == file and r["class"] == name]
    return any(key in reader["keys"] or reader.get("passes_on") for reader in found)
