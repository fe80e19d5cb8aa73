"""Our linter against upstream's classes and a real DJL Serving, on hand-made files and odd values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.properties.lint.findings import lint
from harness.properties.lint.records import ModelFacts, Place

CASES = json.loads((Path(__file__).parent / "djl_cases.json").read_text(encoding="utf-8"))
HANDLER = "from djl_python import Input, Output\n\ndef handle(inputs: Input) -> Output: ...\n"

MISSPELT = "a misspelt key, which the server ignores in silence"
EXCEPTIONS = {
    "typo-of-a-key": MISSPELT,
    "typo-batchsize": MISSPELT,
    "key-in-capitals": MISSPELT,
    "Batch_Size": MISSPELT,
    "minworkers": MISSPELT,
    "s3url": "no version since 0.27.0 reads it: the server would look for the model in the file's folder",
    "bool-java-yes": "Java reads every word but true as false, the opposite of what is written",
    "quantize-unknown-hf": "the handler ignores the word in silence and serves unquantised",
    "rolling-lmi-dist": "retired: the server runs vLLM in its place",
    "rolling-and-async": "the two exclude each other: one is ignored in silence",
    "rolling-and-batch": "batch_size turns the rolling batch off in silence",
    "duplicate": "Java keeps the last of two values in silence",
    "windows-path": "Java drops the backslashes: the path is another one",
}
"""Case or key -> why the linter refuses what upstream takes."""
NOT_JUDGED = {
    "doc-tool-calling": "needs a real vLLM",
    "gpu-fraction-nan": "vLLM's own range check did not run",
}
"""Case -> why upstream's verdict says nothing about the server."""
assert len(CASES["verdicts"]) == 54
assert len(CASES["server"]) == 29


def _has_error(findings: list[Any]) -> bool:
    return any(finding.severity == "error" for finding in findings)


@pytest.mark.parametrize("case", CASES["verdicts"], ids=lambda case: case["name"])
def test_the_linter_refuses_what_upstream_refuses(case: dict[str, str]) -> None:
    if case["name"] in NOT_JUDGED:
        return
    facts = ModelFacts(family=case["model_family"])
    is_taken = case["upstream"].startswith("ok")
    found = _has_error(lint(case["properties"], case["container"], facts))
    assert found != is_taken or case["name"] in EXCEPTIONS
    if case["name"] in EXCEPTIONS:
        assert (found, is_taken) == (True, True), "no exception any more"


@pytest.mark.parametrize("case", CASES["server"], ids=lambda case: str(case["properties"]))
def test_the_linter_agrees_with_the_real_server_on_the_machine_it_ran_on(case: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(HANDLER)
    text = "engine=Python\n" + "".join(f"{key}={value}\n" for key, value in case["properties"].items())
    place = Place(folder=tmp_path, gpus=0, memory_mib=8_000)
    on_that_machine = lint(text, "0.36.0-lmi27", None, HANDLER, "", place)
    serves = case["verdict"] == "serves"
    is_exception = bool(EXCEPTIONS.keys() & case["properties"].keys())
    assert _has_error(on_that_machine) != serves or is_exception
    if not serves:
        assert lint(text, "0.36.0-lmi27", script=HANDLER), "at least a warning where the machine is not known"


@pytest.mark.parametrize("name", CASES["vllm_arguments"])
def test_an_argument_of_vllm_is_no_error_in_a_file_that_runs_on_vllm(name: str) -> None:
    for rolling in ("", "option.rolling_batch=vllm\n"):
        text = f"engine=Python\noption.model_id=x/llama\n{rolling}option.{name}=1\n"
        unknown = [f for f in lint(text, "0.36.0-lmi27") if f.severity == "error" and "unknown key" in f.message]
        assert not unknown
