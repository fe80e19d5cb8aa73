"""Our linter against the verdicts of the Hugging Face handler's own validators, recorded from each release branch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.properties.lint.findings import lint

RECORDED = json.loads((Path(__file__).parent / "upstream_verdicts.json").read_text())
assert len(RECORDED["versions"]) * len(RECORDED["cases"]) > 400, "upstream_verdicts.json: cut short; record it again"

STRICTER = {
    ("0.33.0", "lmi-dist"): "the validator still knows the word, the server rewrites it to vllm with a warning",
    ("0.34.0", "lmi-dist"): "the same",
}
"""(version, rolling_batch) that upstream's validator lets pass and we refuse, and why."""


def _file(options: dict[str, str]) -> str:
    keys = {"engine": "Python", "option.entryPoint": "djl_python.huggingface", "option.model_id": "x/y"}
    keys |= {name if name == "batch_size" else f"option.{name}": value for name, value in options.items()}
    return "".join(f"{key}={value}\n" for key, value in keys.items())


@pytest.mark.parametrize("version", RECORDED["versions"])
def test_the_linter_refuses_what_the_handler_refuses_and_nothing_else(version: str) -> None:
    for case in RECORDED["cases"]:
        findings = [f for f in lint(_file(case["options"]), version) if f.severity == "error"]
        is_accepted = version in case["accepted_by"]
        if (version, case["options"].get("rolling_batch")) in STRICTER:
            assert findings
            assert is_accepted
        else:
            assert bool(findings) != is_accepted, (version, case["options"], findings)
