"""Candidates that cannot fit into a GPU or a host, by arithmetic before any launch: only what surely needs more."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from pathlib import Path

from engines.least_memory import LeastMemory
from engines.models.memory import VALUE_BYTES, ModelSize, is_quantized_folder, is_quantized_hub_id, kept_tokens
from engines.registry import traits
from harness.records import Candidate
from harness.scenario.resolve import ResolvedScenario
from harness.space.candidates import Pruned, SpacePlan
from harness.space.memory_text import memory_bytes, model_size

_TYPE_BYTES = {
    "f32": 4.0, "float32": 4.0, "f16": 2.0, "bf16": 2.0, "bfloat16": 2.0, "float16": 2.0, "q8_0": 1.0625,
    "q5_1": 0.75, "q5_0": 0.6875, "q4_1": 0.625, "q4_0": 0.5625, "iq4_nl": 0.5625,
}  # fmt: skip
"""Of one key or value; a block of 32 has a scale, or a scale and an offset."""
_SMALLEST_BYTES = 0.5
"""Of one of a type that is not known: four bits."""


def without_too_large(plan: SpacePlan, resolved: ResolvedScenario, tokens: int | None) -> SpacePlan:
    """The plan without the candidates that surely need more memory than the machine that it is for has. `tokens` are
    those of the longest request."""
    size, _ = model_size(resolved)
    if size is None or not size.kind.is_decoder or _is_quantized(resolved):
        return plan
    gone: dict[tuple[int, str, str], list[Candidate]] = {}
    for candidate in plan.candidates:
        if reason := _why_too_large(candidate, size, plan, tokens or 1):
            gone.setdefault((candidate.block, _named(candidate), reason), []).append(candidate)
    ids = {each.candidate_id for candidates in gone.values() for each in candidates}
    blocks = tuple(
        replace(block, candidates=tuple(each for each in block.candidates if each.candidate_id not in ids))
        for block in plan.blocks
    )
    pruned = (
        Pruned(block=block, description=named, reason=reason, count=len(candidates))
        for (block, named, reason), candidates in gone.items()
    )
    return replace(
        plan,
        blocks=tuple(block for block in blocks if block.candidates),
        candidates=tuple(each for each in plan.candidates if each.candidate_id not in ids),
        pruned=(*plan.pruned, *pruned),
    )


def _is_quantized(resolved: ResolvedScenario) -> bool:
    """Whether the weights are stored in fewer bits than a candidate's dtype, so that their size is not known."""
    model = resolved.model
    if model.kind == "hub":
        return is_quantized_hub_id(model.value)
    return model.kind == "path" and is_quantized_folder(Path(model.value))


def _named(candidate: Candidate) -> str:
    """The engine, and the axes and options that its least memory depends on."""
    least = traits(candidate.engine).least_memory
    names = (least.share_option, least.context_option, least.rows_option, *least.type_options) if least else ()
    options = [f"{name}={candidate.options[name]}" for name in names if name in candidate.options]
    degree = candidate.tensor_parallel_degree
    return " ".join(
        [candidate.engine, candidate.dtype, *([f"tensor_parallel_degree={degree}"] if degree > 1 else []), *options]
    )


def _why_too_large(candidate: Candidate, size: ModelSize, plan: SpacePlan, tokens: int) -> str:
    """Why it cannot fit, with the arithmetic; '' where it may, or where too little is known."""
    least = traits(candidate.engine).least_memory
    if least is None or any(name in candidate.options for name in least.unknown_by):
        return ""
    there = _room(candidate, least, plan)
    if there is None:
        return ""
    room_bytes, where = there
    degree = candidate.tensor_parallel_degree
    weights = 0.0
    if not least.is_mapped and not any(name in candidate.options for name in least.smaller_by):
        weights = size.parameters * VALUE_BYTES.get(candidate.dtype, _SMALLEST_BYTES) / degree
    cache, text = _cache_bytes(candidate, size, least, tokens)
    if weights + cache <= room_bytes:
        return ""
    sum_text = f"weights {weights / 1e9:.2f} + " if weights else ""
    return (
        f"needs at least {sum_text}keys and values {cache / 1e9:.2f} ({text}) = {(weights + cache) / 1e9:.2f} GB"
        f"{' on each GPU' if candidate.device == 'cuda' and not least.is_mapped else ''}, and {where}; "
        "--no-prune launches it all the same"
    )


def _room(candidate: Candidate, least: LeastMemory, plan: SpacePlan) -> tuple[float, str] | None:
    """The bytes that it may take and which these are; None where they are not known."""
    host, gpus = memory_bytes(plan), plan.gpus
    if candidate.device == "cpu":
        return (host, f"{plan.host} {host / 1e9:.1f} GB") if least.is_mapped else None
    if gpus is None:
        return None
    if least.is_mapped:
        room = host + gpus.total_bytes
        return room, f"{plan.host} {room / 1e9:.1f} GB on its GPUs and its host together"
    share = _number(candidate.options.get(least.share_option, 1.0))
    if share is None:
        return None
    each = gpus.largest_bytes
    return share * each, f"{share:g} of {gpus.name}'s {each / 1e9:.2f} GB is {share * each / 1e9:.2f}"


def _number(value: object) -> float | None:
    """What an option that takes a number states; None for '90%', which the server is left to refuse."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if isfinite(number) else None


def _cache_bytes(candidate: Candidate, size: ModelSize, least: LeastMemory, tokens: int) -> tuple[float, str]:
    """Bytes of keys and values on one GPU that there must be room for, and the product in words."""
    kind, options = size.kind, candidate.options
    context = tokens
    if least.context_option:
        usual = min(each for each in (kind.max_positions, least.usual_context) if each is not None)
        named = options.get(least.context_option, usual)
        context = named if isinstance(named, int) else tokens
    rows = 1
    if least.rows_option:
        usual_rows = candidate.batch_size if candidate.rolling_batch == "disable" else least.usual_rows
        rows = int(options.get(least.rows_option, usual_rows))
    usual_bytes = 4.0 if candidate.dtype == "fp32" else 2.0
    words = [str(options.get(name, "auto")) for name in least.type_options]
    both = [usual_bytes if word == "auto" else _type_bytes(word) for word in words]
    pair = both[0] + both[-1]
    heads = max(1, kind.kv_heads // candidate.tensor_parallel_degree)
    kept = kept_tokens(kind, context, 0)
    text = f"{rows} x {kept:,} layer tokens x {heads} heads x {kind.head_dim} x {pair:g} bytes"
    return rows * kept * heads * kind.head_dim * pair, text


def _type_bytes(word: str) -> float:
    return 1.0 if word.startswith("fp8") else _TYPE_BYTES.get(word, _SMALLEST_BYTES)
