"""A machine that a file describes: what is read and refused, and what a plan for it rules out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import tune
from harness.errors import ScenarioError, UsageError
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.space.candidates import GpuRoom, SpacePlan, plan_space
from harness.space.least_memory import without_too_large
from harness.space.machine_file import capabilities_there, read_machine
from harness.space.memory_text import memory_lines

ROOT = Path(__file__).resolve().parents[3]
H100 = ROOT / "scenarios/assets/machines/h100.yml"
MISTRAL = ROOT / "scenarios/mistral-7b-h100.yaml"
BARE = "name: small\ncores: 2\nmemory_gib: 4\n"


def _plan(path: Path, *options: str) -> str:
    result = CliRunner().invoke(tune.command, [str(path), *options], catch_exceptions=False, standalone_mode=False)
    return result.output


def test_a_search_is_planned_for_a_machine_that_is_not_here() -> None:
    printed = _plan(MISTRAL, "--dry-run", "--machine", str(H100))
    assert "machine    h100: 16 cores, 256 GiB, 1 x H100 with 80 GiB, 8.5 USD/h; its engines were not asked" in printed
    assert "candidates 24\n" in printed
    assert "H100 of h100 has 85.9 GB: fits" in printed
    assert "at 8.5 USD/h (the description of h100)" in printed
    as_json = json.loads(_plan(MISTRAL, "--dry-run", "--machine", str(H100), "--json"))
    assert as_json["machine"]["gpu"] == "H100"
    assert as_json["expected"]["minutes_8_of_10"] is None


def test_what_the_described_machine_has_not_is_ruled_out_with_that_reason(tmp_path: Path) -> None:
    small = tmp_path / "small.yml"
    small.write_text(BARE)
    printed = _plan(MISTRAL, "--dry-run", "--machine", str(small))
    assert "vllm device=cuda (24): small has 0 GPUs" in printed
    assert "nothing is left to measure" in printed


def test_rows_in_memory_are_no_more_than_the_load_asks_at_once() -> None:
    few = load_scenario(MISTRAL, ["workload.load.users=1"])
    nothing = SpacePlan(blocks=(), candidates=(), pruned=(), warnings=())
    h100 = read_machine(H100)
    lines = list(memory_lines(resolve(few, MISTRAL), h100.planned(nothing), h100))
    assert any("(1 rows x " in line for line in lines)


def _described(tmp_path: Path, gpu_memory_gib: float) -> str:
    path = tmp_path / "machine.yml"
    path.write_text(f"name: m\ncores: 8\nmemory_gib: 8\ngpus: 1\ngpu: A10G\ngpu_memory_gib: {gpu_memory_gib}\n")
    return str(path)


def test_what_surely_does_not_fit_a_gpu_is_ruled_out_with_the_arithmetic(tmp_path: Path) -> None:
    """Mistral 7B in 16 bits: 7,241,732,096 weights; a context of 4,096 tokens, 32 layers, 8 heads of 128."""
    small = ("--dry-run", "--machine", _described(tmp_path, 12.0))
    printed = _plan(MISTRAL, *small)
    assert (
        "vllm bf16 kv_cache_dtype=fp8 (6): needs at least weights 14.48 + keys and values 0.27 (1 x 131,072 layer "
        "tokens x 8 heads x 128 x 2 bytes) = 14.75 GB on each GPU, and 1 of A10G's 12.88 GB is 12.88; --no-prune"
        in printed
    )
    assert "nothing is left" in printed or "candidates 0" in printed
    assert "candidates 24\n" in _plan(MISTRAL, *small, "--no-prune")
    assert "candidates 24\n" in _plan(MISTRAL, "--dry-run", "--machine", _described(tmp_path, 24.0))


@pytest.mark.parametrize(
    ("sizes_mib", "left", "room"),
    [
        ([12 << 10], 0, "and 1 of A10G's 12.88 GB is 12.88;"),
        ([12 << 10, 24 << 10], 24, "A10G of this machine has 25.8 GB: fits"),
        ([12 << 10, None], 24, "H100 of ml.p5.4xlarge has 85.9 GB: fits"),
    ],
)
def test_a_gpu_of_this_machine_rules_out_what_its_largest_cannot_hold(
    tmp_path: Path, sizes_mib: list[int | None], left: int, room: str
) -> None:
    """By the facts that NVML states; where one GPU does not state its memory, `cost.instance` names what is known."""
    machine = read_machine(Path(_described(tmp_path, 24.0)))
    resolved = resolve(load_scenario(MISTRAL), MISTRAL)
    plan = plan_space(resolved, capabilities_there(machine, resolved), machine.cores)
    facts = {"gpu_models": ["A10G"] * len(sizes_mib), "gpu_memory_mib": sizes_mib}
    plan = without_too_large(replace(plan, gpus=GpuRoom.of(facts)), resolved, 4096)
    assert plan.size == left
    assert room in "\n".join([*memory_lines(resolved, plan), *(each.reason for each in plan.pruned)])


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ("gpu_memory_utilization: [0.15, 0.9], max_num_seqs: 8", 1),
        ("max_model_len: [4096, 32768], kv_cache_dtype: [auto, fp8]", 4),
        ("gpu_memory_utilization: 0.2, max_model_len: [4096, 32768], kv_cache_dtype: [auto, fp8]", 3),
        ("gpu_memory_utilization: 0.15, quantization: fp8", 1),
    ],
)
def test_share_context_and_cache_type_decide_what_fits(tmp_path: Path, options: str, left: int) -> None:
    """On 80 GiB, 85.9 GB: 0.15 is 12.9, less than the weights alone; 0.2 is 17.2; 32,768 tokens are 4.3 or 2.1."""
    path = tmp_path / "s.yaml"
    block = f"{{engine: vllm, device: cuda, dtype: bf16, rolling_batch: auto, options: {{{options}}}}}"
    path.write_text(f"name: s\nmodel: {{hub: mistralai/Mistral-7B-v0.3}}\nspace: [{block}]\n")
    assert f"candidates {left}\n" in _plan(path, "--dry-run", "--machine", _described(tmp_path, 80.0))


@pytest.mark.heavy
def test_slots_and_cache_types_count_where_the_weights_are_a_files_pages(tmp_path: Path) -> None:
    """The shape of Llama 3.1 8B: a slot of 4,096 tokens is 0.54 GB in 16 bits; GPU and host together have 34.4 GB."""
    path = tmp_path / "s.yaml"
    types = "cache_type_k: [f16, q4_0], cache_type_v: [f16, q4_0]"
    block = f"{{engine: llamacpp, device: cuda, dtype: bf16, options: {{n_parallel: [8, 72, 112], {types}}}}}"
    path.write_text(f"name: s\nmodel: {{shape: llama-3.1-8b}}\nspace: [{block}]\n")
    printed = _plan(path, "--dry-run", "--machine", _described(tmp_path, 24.0))
    assert "candidates 8\n" in printed, "72 in 16 bits are 38.7, 112 with one of both in 4 bits 38.5"
    assert "n_parallel=72 cache_type_k=f16 cache_type_v=f16 (1): needs at least keys and values 38.65 (" in printed


def _left(tmp_path: Path, model: str, engine: str, options: str) -> str:
    """The plan's printed text for a request of 131,000 tokens on a GPU of 14 GiB, 15.0 GB."""
    path = tmp_path / "s.yaml"
    block = f"{{engine: {engine}, device: cuda, dtype: bf16, rolling_batch: auto, options: {{{options}}}}}"
    lengths = "workload: {lengths: {input: 130900, output: 100}, corpus_may_repeat: true}"
    path.write_text(f"name: s\nmodel: {{{model}}}\n{lengths}\nspace: [{block}]\n")
    return _plan(path, "--dry-run", "--machine", _described(tmp_path, 14.0))


@pytest.mark.parametrize(
    ("engine", "plain", "more"),
    [
        ("vllm", "max_model_len: 131072", "pipeline_parallel_size: 4"),
        ("vllm", "max_model_len: 131072", "decode_context_parallel_size: 4"),
        ("vllm", "max_model_len: 131072", "hf_overrides: '{\"num_hidden_layers\": 2}'"),
        ("vllm", "gpu_memory_utilization: 0.01, quantization: fp8", "kv_cache_memory_bytes: 2000000000"),
        ("vllm", "max_model_len: 4096", "offload_group_size: 2"),
        ("sglang", "mem_fraction_static: 0.9", "pp_size: 4"),
        ("sglang", "mem_fraction_static: 0.9", "json_model_override_args: '{\"num_hidden_layers\": 2}'"),
        ("sglang", "kv_cache_dtype: fp4_e2m1", "offload_group_size: 2, offload_num_in_group: 1"),
    ],
)
def test_options_that_share_out_a_model_leave_nothing_known(tmp_path: Path, engine: str, plain: str, more: str) -> None:
    """The shape of Llama 3.1 8B: weights of 16.1 GB, keys and values of 131,000 tokens of 17.2 in 16 bits."""
    assert "needs at least" in _left(tmp_path, "shape: llama-3.1-8b", engine, plain)
    assert "candidates 1\n" in _left(tmp_path, "shape: llama-3.1-8b", engine, f"{plain}, {more}")


@pytest.mark.parametrize("share", ["90%", "'0,9'", "'nan'"])
def test_a_share_that_is_no_number_rules_nothing_out(tmp_path: Path, share: str) -> None:
    """vLLM's options are not known without it; those of SGLang and llama.cpp are, and refuse such a value."""
    assert "candidates 1\n" in _left(tmp_path, "shape: llama-3.1-8b", "vllm", f"gpu_memory_utilization: {share}")


@pytest.mark.parametrize(
    "name",
    ["Llama-3.1-8B-Instruct-AWQ-INT4", "Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b-bnb-4bit", "Llama-3.1-8B-NVFP4"],
)
def test_a_quantized_checkpoint_is_not_counted_at_full_width(tmp_path: Path, name: str) -> None:
    assert "needs at least weights 16.06" in _left(tmp_path, "hub: somebody/Llama-3.1-8B-Instruct", "vllm", "")
    assert "candidates 1\n" in _left(tmp_path, f"hub: somebody/{name}", "vllm", "")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("cores: 2\nmemory_gib: 4\n", "name: expected a value, got nothing; this key is required"),
        (
            f"{BARE}gpu_memory: 80\n",
            "4: gpu_memory: expected a known key, got 'gpu_memory'; did you mean 'gpu_memory_gib'?",
        ),
        (f"{BARE}gpus: 1\n", "expected gpus, gpu and gpu_memory_gib together, or none of them, got 'gpus: 1, gpu: "),
        (BARE.replace("4", "0"), "3: memory_gib: expected a number > 0, got 0"),
        ("- 1\n", ":1: expected 'key: value' lines (name, cores, memory_gib, gpus, gpu, gpu_memory_gib, usd_per_hour)"),
        ("name: [\n", "m.yml:"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_its_line(tmp_path: Path, text: str, wrong: str) -> None:
    path = tmp_path / "m.yml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as refused:
        read_machine(path)
    assert wrong in str(refused.value)


def test_nothing_is_launched_for_a_described_machine() -> None:
    with pytest.raises(UsageError, match="nothing is launched there; add --dry-run"):
        _plan(MISTRAL, "--machine", str(H100))
    with pytest.raises(UsageError, match="--machine and --places are not combined"):
        _plan(MISTRAL, "--dry-run", "--machine", str(H100), "--places", "ray://head:1")
