"""Memory arithmetic: whether a model fits a SageMaker instance, before anything is created."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.api import EngineSpec
from engines.errors import EngineError, SpecInvalid
from engines.models.checkpoint.kind import ModelKind, model_kind
from engines.models.memory import VALUE_BYTES, folder_size
from engines.models.memory import Work as DecoderWork
from engines.models.memory import memory as decoder_memory
from engines.sagemaker.catalogue import Instance
from engines.t5.config import read_config
from engines.t5.memory_model import CONTEXT_BYTES, memory
from engines.t5.time_model import WEIGHT_BYTES, Work, cache_bytes

GIB = float(1 << 30)
USABLE_FRAC = 0.92
"""Of a device's memory; the rest is the driver's, the allocator's and other processes'."""
SERVER_GIB = 1.5
"""Assumed: the server and the Python processes of a container on its host."""
PROMPT_TOKENS = 512
"""Assumed: tokens of a decoder-only model's prompt, fewer where its positions end; the answer's come beside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """What one device, or one process on the host, must hold; `reserve_bytes` is the driver's on a GPU."""

    weights_bytes: float
    kv_bytes: float
    other_bytes: float
    reserve_bytes: float
    rows: str


def check_fit(spec: EngineSpec, instance: Instance, max_target: int = 128) -> str:
    """One sentence with the arithmetic. Raises SpecInvalid when the model does not fit, or the degree not the GPUs."""
    kind = _kind(spec.model_dir)
    check_degree(spec, instance, kind)
    if kind is None:
        return "memory not checked: no config.json of a known model beside the weights"
    share = _decoder_share(spec, kind, max_target) if kind.is_decoder else _t5_share(spec, max_target)
    if isinstance(share, str):
        return f"memory not checked: {share}"
    reserve = 0.0 if spec.device == "cpu" else share.reserve_bytes
    each_gib = (share.weights_bytes + share.kv_bytes + share.other_bytes + reserve) / GIB
    parts = (
        f"weights {share.weights_bytes / GIB:.2f} + keys and values {share.kv_bytes / GIB:.2f} + workspace "
        f"{(share.other_bytes + reserve) / GIB:.2f} = {each_gib:.2f} GiB"
    )
    what = f"{spec.dtype}, {share.rows}, tensor_parallel_degree {spec.tensor_parallel_degree}"
    if spec.device == "cpu":
        processes = spec.workers * spec.tensor_parallel_degree
        wanted = processes * each_gib + SERVER_GIB
        room, where = USABLE_FRAC * instance.host_gib, f"host of {instance.host_gib:g} GiB"
        parts += f", x {processes} processes + server {SERVER_GIB:g} = {wanted:.2f} GiB"
    else:
        wanted, room = each_gib, USABLE_FRAC * instance.accelerator_gib
        where = f"{instance.chip} of {instance.accelerator_gib:g} GiB"
    if wanted > room:
        raise SpecInvalid(
            f"sagemaker: the model does not fit {instance.name}: {what}: {parts}; each {where} leaves {room:.2f} GiB; "
            "take a higher tensor_parallel_degree, a smaller dtype or batch, or a larger instance"
        )
    return f"{what}: {parts}; each {where} leaves {room:.2f} GiB: fits"


def _t5_share(spec: EngineSpec, max_target: int) -> _Share | str:
    """By the memory model of the bundled engine; the reason where it has none."""
    try:
        config = read_config(spec.model_dir)
    except (EngineError, OSError) as error:
        return str(error)
    if spec.dtype not in WEIGHT_BYTES:
        return f"size of dtype {spec.dtype!r} unknown"
    work = Work(
        batch=spec.batch_size, tensor_parallel_degree=spec.tensor_parallel_degree, cache_bytes=cache_bytes(spec.dtype)
    )  # fmt: skip
    need = memory(config, spec.dtype, work, max_target=max_target)
    return _Share(
        weights_bytes=need.weights_bytes,
        kv_bytes=need.kv_bytes,
        other_bytes=need.workspace_bytes,
        reserve_bytes=need.reserve_bytes,
        rows=f"batch {spec.batch_size}",
    )


def _decoder_share(spec: EngineSpec, kind: ModelKind, new_tokens: int) -> _Share | str:
    """By the memory model of decoder-only models; the reason where the weights cannot be counted. In a rolling batch
    one request must fit: the server gives its cache what is left."""
    try:
        size = folder_size(spec.model_dir)
    except (EngineError, OSError) as error:
        return str(error)
    if size is None:
        return "the weights have no safetensors headers"
    if spec.dtype not in VALUE_BYTES:
        return f"size of dtype {spec.dtype!r} unknown"
    prompt = (
        PROMPT_TOKENS if kind.max_positions is None else min(PROMPT_TOKENS, max(1, kind.max_positions - new_tokens))
    )
    work = DecoderWork(
        dtype=spec.dtype,
        rows=spec.batch_size,
        prompt_tokens=prompt,
        new_tokens=new_tokens,
        degree=spec.tensor_parallel_degree,
    )
    need = decoder_memory(size, work)
    return _Share(
        weights_bytes=need.weights_bytes,
        kv_bytes=need.kv_bytes,
        other_bytes=need.activation_bytes,
        reserve_bytes=float(CONTEXT_BYTES),
        rows=f"batch {spec.batch_size} of {prompt} + {new_tokens} tokens",
    )


def check_degree_of(spec: EngineSpec, instance: Instance) -> None:
    """check_degree with the configuration in the model's folder."""
    check_degree(spec, instance, _kind(spec.model_dir))


def check_degree(spec: EngineSpec, instance: Instance, kind: ModelKind | None) -> None:
    """Raises SpecInvalid when tensor parallelism divides neither the heads nor the instance's devices."""
    degree, chips = spec.tensor_parallel_degree, instance.accelerators
    if kind is not None and kind.heads % degree:
        raise SpecInvalid(
            f"sagemaker: tensor_parallel_degree {degree} does not divide the model's {kind.heads} heads; "
            f"it may be {_divisors(kind.heads)}"
        )
    if spec.device == "cpu":
        return
    if not chips:
        raise SpecInvalid(f"sagemaker: {instance.name} has no accelerator; take device: cpu or another instance")
    if chips % degree:
        raise SpecInvalid(
            f"sagemaker: tensor_parallel_degree {degree} does not divide the {chips} {instance.chip} of "
            f"{instance.name}; it may be {_divisors(chips)}"
        )
    if spec.workers * degree > chips:
        raise SpecInvalid(
            f"sagemaker: {spec.workers} workers of degree {degree} need {spec.workers * degree} devices; "
            f"{instance.name} has {chips}"
        )


def _divisors(number: int) -> str:
    return ", ".join(str(each) for each in range(1, number + 1) if number % each == 0)


def _kind(model_dir: Path) -> ModelKind | None:
    try:
        return model_kind(model_dir)
    except (EngineError, OSError):
        return None
