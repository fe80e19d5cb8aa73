"""Presets: every block is one that its engine takes, and what a scenario names wins over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from engines.presets import PRESETS
from engines.registry import engine_names
from engines.setting import Setting
from engines.spec_check import why_not
from harness.cli.engine import command
from harness.errors import ScenarioError
from harness.scenario.load import load_scenario
from harness.scenario.resolve import digest_of, resolve, resolved_from_dict
from harness.space.capabilities import known_options

CHECKED = ("llamacpp", "sglang", "transformers_serve")
"""Those whose options are known without starting anything large."""


def _load(folder: Path, space: str) -> Any:
    path = folder / "s.yaml"
    path.write_text(f"name: s\nspace: [{space}]\n")
    return load_scenario(path)


@pytest.mark.parametrize(("engine", "name"), [(engine, name) for engine, of in PRESETS.items() for name in of])
def test_a_preset_is_a_scenario_of_its_blocks(engine: str, name: str, tmp_path: Path) -> None:
    assert engine in engine_names()
    written = _load(tmp_path, f"{{engine: {engine}, preset: {name}}}")
    blocks = [{"engine": engine, **block} for block in PRESETS[engine][name].blocks]
    assert written == _load(tmp_path, ", ".join(json.dumps(block) for block in blocks))
    resolved = resolve(written, tmp_path / "s.yaml")
    assert resolved_from_dict(json.loads(json.dumps(resolved.as_dict()))).scenario == written


@pytest.mark.heavy
@pytest.mark.parametrize(("engine", "name"), [(engine, name) for engine in CHECKED for name in PRESETS[engine]])
def test_every_option_takes_its_values(engine: str, name: str) -> None:
    known = known_options(engine).able
    if known is None:
        pytest.skip("transformers not installed: pip install 'dynamometer[transformers]'")
    for block in PRESETS[engine][name].blocks:
        for option, values in block.get("options", {}).items():
            for value in values if isinstance(values, list) else [values]:
                assert why_not(engine, f"options.{option}", value, known) == ""
                assert option in known.option_values


def test_no_step_of_llama_cpp_is_larger_than_the_one_it_is_part_of() -> None:
    options = [block.get("options", {}) for preset in PRESETS["llamacpp"].values() for block in preset.blocks]
    assert all(max(each["n_ubatch"]) <= each.get("n_batch", 2048) for each in options if "n_ubatch" in each)
    quantized = [each for each in options if "cache_type_v" in each]
    assert {each["flash_attn"] for each in quantized} == {"on"}


def test_no_preset_takes_answers_from_a_prefix_cache() -> None:
    assert not [name for name in ("prefix_caching", "cache_prompt", "cache_reuse", "radix") if name in repr(PRESETS)]


def test_what_the_block_names_wins(tmp_path: Path) -> None:
    (block,) = _load(tmp_path, "{engine: llamacpp, preset: throughput, threads: 2, options: {n_parallel: 2}}").space
    assert (block.engine, block.threads, block.rolling_batch) == ("llamacpp", (2,), ("auto",))
    assert block.options == {"n_parallel": (2,), "n_ubatch": (128, 512)}
    several = _load(tmp_path, "{engine: fake}, {engine: [vllm, llamacpp], preset: precision, workers: 1}").space
    assert [each.engine for each in several] == ["fake", "vllm", "vllm", "llamacpp", "llamacpp", "llamacpp"]


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ("{engine: vllm, preset: troughput}", "space.0.preset: expected a preset of vllm: one of throughput, latency, "
         "precision, all, got 'troughput'; did you mean 'throughput'?"),
        ("{engine: t5, preset: all}", "space.0.preset: expected no preset beside engine t5, got 'all'; these have "),
        ("{engine: vllm, prest: all}", "space.0.prest: expected a known key, got 'prest'; did you mean 'preset'?"),
        ("{engine: vllm, preset: all, dtype: fp31}", "space.0.dtype: expected a dtype such as"),
        ("{engine: [llamacpp, vllm], preset: all, workers: 0}", "space.0.workers: expected a number >= 1, got 0"),
        ("{engine: vllm, preset: all, options: 3}", "space.0.options: "),
        ("{engine: vllm, preset: 3}", "space.0.preset: expected a preset of vllm"),
    ],
)  # fmt: skip
def test_a_wrong_preset_is_refused_where_it_stands(space: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        _load(tmp_path, space)
    assert f"s.yaml:2: {sentence}" in str(caught.value)


def test_a_scenario_without_one_has_the_digest_that_it_had(tmp_path: Path) -> None:
    scenario = _load(tmp_path, "{engine: fake}")
    assert "preset" not in json.dumps(scenario.model_dump(mode="json"))
    assert digest_of(scenario) == digest_of(_load(tmp_path, "{engine: fake, preset: null}"))
    assert "preset" not in Setting().axes()


def test_they_are_listed() -> None:
    listed = CliRunner().invoke(command, ["presets", "llamacpp"])
    assert listed.exit_code == 0
    assert "{engine: llamacpp, preset: precision}: types of weights and cache" in listed.output
    assert "  rolling_batch: auto, options: {n_parallel: [4, 8, 16, 32], n_ubatch: [128, 512]}\n" in listed.output
    assert json.loads(CliRunner().invoke(command, ["presets", "--json"]).output).keys() == PRESETS.keys()
    wrong = CliRunner().invoke(command, ["presets", "lamacpp"])
    assert (wrong.exit_code, "did you mean 'llamacpp'?" in wrong.output) == (2, True)
