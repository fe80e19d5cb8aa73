"""No code of the harness decides by an engine's name: registry.TRAITS and an engine's capabilities say what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from engines.registry import ENGINES
from tests.parsed import parsed

ROOT = Path(__file__).parents[2]

EXEMPT = {
    "harness/cli/deploy.py": ("sagemaker", "the verb `dyno deploy sagemaker`"),
    "harness/cli/partition.py": ("t5", "partitions are the bundled engine's"),
    "harness/load/ceiling/measure.py": ("djl", "a protocol's name"),
    "harness/load/protocol/registry.py": ("djl", "a protocol's name"),
    "harness/scenario/served_reference.py": ("djl", "a protocol's name"),
    "harness/measure/machine/facts.py": ("ctranslate2 onnxruntime transformers", "packages whose versions are noted"),
    "harness/properties/containers.py": ("deepspeed neuronx", "kinds of AWS's images"),
    "harness/properties/render.py": ("deepspeed", "a kind of AWS's images"),
    "harness/properties/migrate.py": ("t5 vllm", "a family of models; a rolling batch of the containers"),
    "harness/properties/lint/records.py": ("t5", "a family of models"),
    "harness/properties/lint/combinations.py": (
        "t5 deepspeed neuronx vllm",
        "a family of models; a word that containers read",
    ),
    "harness/properties/key_rules.py": ("fastertransformer", "a handler of the containers"),
    "harness/properties/lint/findings.py": ("t5", "a family of models"),
    "harness/properties/lint/keys.py": ("tensorrt_llm vllm", "handlers of the containers"),
    "harness/properties/lint/readers.py": (
        "transformers tensorrt_llm deepspeed fastertransformer onnxruntime neuronx vllm",
        "handlers of the containers",
    ),
}
"""File -> the names that may stand in it as a string, and what they mean there."""


def names_in(source: str) -> Iterator[tuple[int, str]]:
    """Line and value of every string literal that is an engine's name; docstrings and texts around it do not count."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Constant) and node.value in ENGINES:
            yield node.lineno, node.value


def test_no_file_of_the_harness_names_an_engine() -> None:
    found = []
    for path in sorted((ROOT / "harness").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        allowed = EXEMPT.get(name, ("", ""))[0].split()
        found += [f"{name}:{line}: {value!r}" for line, value in names_in(path.read_text()) if value not in allowed]
    assert not found, "\n".join(found)


def test_every_exemption_is_needed() -> None:
    for name, (allowed, _) in EXEMPT.items():
        there = {value for _, value in names_in((ROOT / name).read_text())}
        assert there == set(allowed.split()), name


def test_a_name_is_found_wherever_code_uses_it() -> None:
    assert list(names_in('if engine == "fake":\n    pass')) == [(1, "fake")]
    assert list(names_in('TABLE = {"t5": 1}\n"""t5 in a text."""')) == [(1, "t5")]
