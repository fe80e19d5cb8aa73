"""The memory that a scenario's candidates and its reference need, as lines of the plan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from engines.errors import EngineError
from engines.models.memory import (
    PROCESS_BYTES,
    VALUE_BYTES,
    ModelSize,
    Work,
    folder_size,
    memory,
    reference_dtype,
    shape_of_hub_id,
    shape_size,
)
from engines.registry import traits
from engines.sagemaker.catalogue import instance_of
from harness.scenario.engine_block import EngineBlock
from harness.scenario.lengths import longest
from harness.scenario.load_kinds import ClosedLoad
from harness.scenario.load_list import loads_of
from harness.scenario.resolve import ResolvedScenario
from harness.space.candidates import SpacePlan
from harness.space.capabilities import folder_here
from harness.space.chat import prompts_of, token_counts
from harness.space.machine_file import DescribedMachine
from harness.units import BYTES_PER_GIB

USABLE_FRAC = 0.92
"""Of a device's memory; the rest is the driver's, the allocator's and other processes'."""
ROLLING_ROWS = 32
"""Requests in a rolling batch where nobody names more."""
REFERENCE_BATCH_SIZE = 8
READ_BYTES_PER_S = 10e9
"""Assumed: weights that a CPU reads from memory while it decodes."""
_ROWS = ("max_num_seqs", "max_rolling_batch_size", "n_parallel", "max_slots")
"""What engines call the requests that they compute at once."""
_CHARACTERS_A_TOKEN = 3
"""Assumed where the tokenizer is not here."""


def memory_lines(resolved: ResolvedScenario, plan: SpacePlan, machine: DescribedMachine | None = None) -> Iterator[str]:
    """One line for the model and the reference, one for each block, dtype and degree; none where nothing is known of
    the model before its download. What the plan has ruled out would fit, or not. `machine` is described, or None."""
    size, of = model_size(resolved)
    if size is None:
        return
    yield f"{size.parameters / 1e6:,.0f} M parameters{of}; {_reference_text(resolved, size, machine)}"
    lengths = resolved.scenario.workload.lengths
    prompt = max(_longest_prompt(resolved), longest(lengths.input) if lengths else 0)
    new = max(resolved.scenario.workload.parameters.max_new_tokens, longest(lengths.output) if lengths else 0)
    loads = loads_of(resolved.scenario.workload.load)
    at_once = max(load.most_users if isinstance(load, ClosedLoad) else load.max_in_flight for load in loads)
    asked = at_once * resolved.scenario.workload.inputs_per_request
    left = {(one.block, one.dtype, one.tensor_parallel_degree) for block in plan.blocks for one in block.candidates}
    seen: dict[str, None] = {}
    for index, block in enumerate(resolved.scenario.space):
        for dtype in block.dtype:
            for degree in block.tensor_parallel_degree:
                if dtype in VALUE_BYTES and traits(block.engine).needs_reference:
                    work = Work(
                        dtype=dtype, rows=min(_rows(block), asked), prompt_tokens=prompt, new_tokens=new, degree=degree
                    )
                    is_left = (index, dtype, degree) in left
                    seen[_line(block, size, work, _room(resolved, block, plan, machine), is_left=is_left)] = None
    yield from seen


def model_size(resolved: ResolvedScenario) -> tuple[ModelSize | None, str]:
    """The model's size and, where it is a published shape's instead, how that is put."""
    model = resolved.model
    if not resolved.scenario.reads_model:
        return None, ""
    if model.kind == "shape":
        return shape_size(model.value), ""
    if model.kind == "hub" and (name := shape_of_hub_id(model.value)) is not None:
        return shape_size(name), f" by the published shape {name}"
    try:
        folder = folder_here(resolved)
        return (None if folder is None else folder_size(folder)), ""
    except EngineError:
        return None, ""  # a damaged folder is refused where it is used


def asked_dtype(resolved: ResolvedScenario, machine: DescribedMachine | None = None) -> str:
    """The dtype in which the model itself is asked for the reference's answers."""
    return reference_dtype(model_size(resolved)[0], _reference_room(machine))


def memory_bytes(plan: SpacePlan) -> float:
    """The memory of the host that the plan is for."""
    return float(psutil.virtual_memory().total) if plan.host_bytes is None else plan.host_bytes


def _reference_room(machine: DescribedMachine | None) -> float:
    """The host's memory where the reference is asked: of `machine`, else of this one."""
    return float(psutil.virtual_memory().total) if machine is None else machine.memory_gib * BYTES_PER_GIB


def reference_read_s(resolved: ResolvedScenario, machine: DescribedMachine | None = None) -> float:
    """Seconds in which the reference's answers need its weights read, once for each token of a batch; 0 where the size
    is not known."""
    size, _ = model_size(resolved)
    scenario = resolved.scenario
    if size is None or scenario.quality.reference is not None:
        return 0.0
    steps = scenario.quality.prompts * scenario.workload.parameters.max_new_tokens / REFERENCE_BATCH_SIZE
    return steps * size.parameters * VALUE_BYTES[asked_dtype(resolved, machine)] / READ_BYTES_PER_S


def _reference_text(resolved: ResolvedScenario, size: ModelSize, machine: DescribedMachine | None) -> str:
    if resolved.scenario.quality.reference is not None:
        return "the reference is a server"
    here, where = _reference_room(machine), "here" if machine is None else f"of {machine.name}"
    dtype = reference_dtype(size, here)
    need = size.parameters * VALUE_BYTES[dtype] + PROCESS_BYTES
    why = "" if dtype == "fp32" else f", the checkpoint's dtype: fp32 would need {size.parameters * 4 / 1e9:.1f} GB"
    return f"the reference needs about {need / 1e9:.1f} GB of {here / 1e9:.1f} GB {where} in {dtype}{why}"


def _line(block: EngineBlock, size: ModelSize, work: Work, there: tuple[float | None, str], *, is_left: bool) -> str:
    need = memory(size, work)
    room, where = there
    each = f" on each of {work.degree}" if work.degree > 1 else ""
    what = f"{block.engine} {work.dtype}{each}: {need.explain()}"
    if room is None:
        return f"{what}; {where}"
    verdict = ("fits", "does not fit") if is_left else ("would fit; ruled out below", "would not fit; ruled out below")
    return f"{what}; {where} {room / 1e9:.1f} GB: {verdict[need.total_bytes > USABLE_FRAC * room]}"


def _room(
    resolved: ResolvedScenario, block: EngineBlock, plan: SpacePlan, machine: DescribedMachine | None
) -> tuple[float | None, str]:
    """Bytes of the device that a block is served on, and which one it is."""
    cost, named = resolved.scenario.cost, block.options.get("instance", (None,))[0]
    name = str(named) if named else (cost.instance if cost else None)
    is_cpu = "cpu" in block.device
    if not traits(block.engine).is_rented:
        if plan.gpus is not None and not is_cpu:
            return plan.gpus.largest_bytes, f"{plan.gpus.name} of {plan.host}"
        if machine is not None and not is_cpu:
            return None, f"{machine.name} has no GPU"
        if is_cpu and (machine is not None or name is None):
            return memory_bytes(plan), plan.host
    if name is None:
        return None, "cost.instance would name a GPU to compare it with"
    try:
        instance = instance_of(name)
    except EngineError:
        return None, f"the memory of {name} is not known here"
    gib = instance.host_gib if "cpu" in block.device else instance.accelerator_gib
    return gib * BYTES_PER_GIB, f"{instance.chip or 'the host'} of {name} has"


def _rows(block: EngineBlock) -> int:
    """The most requests that a block computes at once."""
    asked = [int(value) for name in _ROWS for value in block.options.get(name, ()) if isinstance(value, int)]
    rolling = [ROLLING_ROWS] if any(each != "disable" for each in block.rolling_batch) and not asked else []
    rows: list[int] = [*block.batch_size, *asked, *rolling]
    return max(rows)


def _longest_prompt(resolved: ResolvedScenario) -> int:
    """Tokens of the longest prompt."""
    folder = Path(resolved.model.value) if resolved.model.kind == "path" else None
    longest = max(prompts_of(resolved, folder), key=lambda prompt: len(prompt.model_text))
    counts = token_counts([longest], folder) if folder is not None else ()
    return counts[0] if counts else len(longest.model_text) // _CHARACTERS_A_TOKEN + 1
