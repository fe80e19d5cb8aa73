"""Options of engines with their own server: judged before the clock runs, or named as not judged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engines.api import Availability, Capabilities
from engines.environments.locate import installed_python
from engines.option_values import OptionValues
from harness.cli import scenario, tune
from harness.scenario.resolve import BUNDLED_DECODER
from harness.space import capabilities
from harness.space.capabilities import Known, known_options

ABLE = Capabilities(
    effective_dtypes={"fp32": "fp32"},
    options={"steps": "", "word": "", "free": ""},
    option_values={"steps": OptionValues(kind="int", low=1), "word": OptionValues(kind="text", choices=("one", "two"))},
    reasons={"options.secret": "a secret is stored in no scenario"},
)


def _written(folder: Path, *blocks: str) -> str:
    path = folder / "s.yaml"
    lines = "".join(f"  - {block}\n" for block in blocks)
    path.write_text(f"name: s\nmodel: {{bundled: decoder}}\nquality: {{prompts: 1}}\nspace:\n{lines}")
    return str(path)


def _check(folder: Path, *blocks: str) -> Result:
    return CliRunner().invoke(scenario.command, ["check", _written(folder, *blocks)], standalone_mode=False)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with llama.cpp, without vLLM, and with a server of which nobody knows the version."""
    found = {"llamacpp": Known(able=ABLE), "vllm": Known(able=None, why_unchecked="vLLM not found: install it")}
    opened = Capabilities(effective_dtypes={}, options={"protocol": ""}, has_open_options=True)
    found["transformers_serve"] = Known(able=opened, why_unchecked="nobody knows which version runs")
    monkeypatch.setattr("harness.space.check_options.known_options", lambda engine, *_: found[engine])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("steps: many", "steps: expected a whole number >= 1, got 'many'"),
        ("steps: [1, 0, 2]", "steps: expected a whole number >= 1, got 0"),
        ("step: 1", "step: llamacpp has no such option; did you mean 'steps'?"),
        ("word: [one, tow]", "word: expected one of one, two, got 'tow'; did you mean 'two'?"),
        ("secret: x", "secret: a secret is stored in no scenario"),
    ],
)
def test_a_wrong_option_is_refused_where_it_stands(tmp_path: Path, options: str, message: str) -> None:
    done = _check(tmp_path, "{engine: [fake, t5]}", f"{{engine: llamacpp, options: {{{options}}}}}")
    assert done.return_value == 2
    assert done.stderr == f"{tmp_path}/s.yaml:6: space.1.options.{message}\n"


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("transformers", "cache: staic", "cache: expected one of dynamic, static, got 'staic'; did you mean 'static'?"),
        ("transformers", "cache_new_tokens: [128, 0]", "cache_new_tokens: expected a whole number >= 1, got 0"),
        ("transformers", "compile: 1", "compile: expected true or false, got 1"),
        (
            "accelerate", "device_map: cpu",
            "device_map: expected one of auto, balanced, balanced_low_0, sequential, got 'cpu'",
        ),
        ("deepspeed", "communication: tcp", "communication: expected one of shm, gloo, got 'tcp'"),
        ("onnxruntime", "spinning: often", "spinning: expected true or false, got 'often'"),
        ("openvino", "kv_cache: f64", "kv_cache: expected one of f32, f16, u8, bf16, got 'f64'"),
        ("openvino", "max_slot: 4", "max_slot: openvino has no such option; did you mean 'max_slots'?"),
        pytest.param(
            "t5", "max_slots: many", "max_slots: expected a whole number >= 1, got 'many'", marks=pytest.mark.heavy
        ),
        ("fake", "law: normal", "law: expected one of constant, lognormal, bimodal, stall, got 'normal'"),
    ],
)  # fmt: skip
def test_options_of_the_engines_that_our_server_hosts_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, options: str, message: str
) -> None:
    monkeypatch.setattr("harness.space.check_options.known_options", known_options)
    done = _check(tmp_path, f"{{engine: {engine}, options: {{{options}}}}}")
    assert done.return_value == 2
    assert done.stderr.startswith(f"{tmp_path}/s.yaml:5: space.0.options.{message}")


def test_every_wrong_value_of_an_axis_is_named(tmp_path: Path) -> None:
    done = _check(tmp_path, "{engine: llamacpp, options: {steps: [0, 1, -3], word: three, stepz: 1}}")
    assert len(done.stderr.splitlines()) == 4


def test_a_dry_run_and_a_tune_refuse_the_same(tmp_path: Path) -> None:
    path = _written(tmp_path, "{engine: llamacpp, options: {steps: many}}")
    for more in (["--dry-run"], []):
        done = CliRunner().invoke(tune.command, [path, *more, "--results", str(tmp_path)])
        assert "expected a whole number >= 1, got 'many'" in str(done.exception)


def test_what_could_not_be_checked_is_said(tmp_path: Path) -> None:
    done = _check(
        tmp_path, "{engine: llamacpp, options: {free: [1, x]}}", "{engine: vllm, options: {max_num_seq: many}}",
        "{engine: transformers_serve, options: {protocol: openai, compil: true}}", "{engine: vllm}",
    )  # fmt: skip
    assert done.return_value == 0
    right, *notes = [line.removeprefix(f"{tmp_path}/s.yaml: ") for line in done.stdout.splitlines()]
    assert right.startswith("right; s ")
    assert notes == [
        "options of vllm were not checked (max_num_seq): vLLM not found: install it",
        "options of transformers_serve were not checked (compil): nobody knows which version runs",
    ]


def test_a_chat_of_a_model_without_template_is_refused(tmp_path: Path) -> None:
    blocks = ("{engine: transformers_serve, options: {protocol: [openai, openai-chat]}}",)
    assert _check(tmp_path, *blocks).return_value == 0  # the bundled model has one
    path = Path(_written(tmp_path, *blocks))
    path.write_text(path.read_text().replace("{bundled: decoder}", "{path: m}"))
    shutil.copytree(BUNDLED_DECODER, tmp_path / "m", ignore=shutil.ignore_patterns("chat_template.jinja"))
    done = CliRunner().invoke(scenario.command, ["check", str(path)], standalone_mode=False)
    assert done.return_value == 2
    what = f"expected a model with a chat template beside openai-chat, got '{tmp_path}/m'"
    assert done.stderr == f"{path}:5: space.0.options.protocol: {what}\n"

    for shape, code in (("smollm2-135m", 0), ("opt-125m", 2)):
        path.write_text(path.read_text().replace("{path: m}", "{shape: SHAPE}").replace("SHAPE", shape))
        done = CliRunner().invoke(scenario.command, ["check", str(path)], standalone_mode=False)
        assert done.return_value == code
        path.write_text(path.read_text().replace(shape, "SHAPE"))


def test_options_are_known_without_the_server_where_they_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        capabilities, "engine_capabilities", lambda *_: Availability(is_available=False, reason="it needs a GPU")
    )
    known_options.cache_clear()
    found = known_options("sglang")
    assert found.why_unchecked == "it needs a GPU"
    assert found.able is not None
    assert found.able.option_values["schedule_policy"].takes("fcfs")
    assert known_options("vllm", "/nowhere").able is None
    known_options.cache_clear()


@pytest.mark.heavy
def test_the_installed_llama_cpp_states_its_own_words() -> None:
    found = known_options("llamacpp").able
    assert found is not None
    assert "q8_0" in found.option_values["cache_type_k"].choices
    assert found.options.keys() - found.option_values.keys() == {"image", "command"}


@pytest.mark.heavy
def test_the_installed_vllm_states_its_ranges() -> None:
    if installed_python("vllm") is None:
        pytest.skip("vllm not installed: `dyno engine install vllm` for a separate environment")
    found = known_options("vllm").able
    assert found is not None
    assert found.option_values["gpu_memory_utilization"].expected == "a number > 0 and <= 1"
    assert found.option_values["max_num_batched_tokens"].expected == "a whole number >= 1"
