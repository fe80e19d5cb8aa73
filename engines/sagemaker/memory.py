"""Memory arithmetic: whether a model fits a SageMaker instance, before anything is created."""

from __future__ import annotations

from pathlib import Path

from engines.api import EngineSpec
from engines.errors import EngineError, SpecInvalid
from engines.sagemaker.catalogue import Instance
from engines.t5.config import T5Config, read_config
from engines.t5.memory_model import memory
from engines.t5.time_model import WEIGHT_BYTES, Work, cache_bytes

GIB = float(1 << 30)
USABLE_FRAC = 0.92
"""Of a device's memory; the rest is the driver's, the allocator's and other processes'."""
SERVER_GIB = 1.5
"""Assumed: the server and the Python processes of a container on its host."""


def check_fit(spec: EngineSpec, instance: Instance, max_target: int = 128) -> str:
    """One sentence with the arithmetic. Raises SpecInvalid when the model does not fit, or the degree not the GPUs."""
    config = _config(spec.model_dir)
    check_degree(spec, instance, config)
    if config is None:
        return "memory not checked: no T5 config beside the weights"
    if spec.dtype not in WEIGHT_BYTES:
        return f"memory not checked: size of dtype {spec.dtype!r} unknown"
    rows = Work(
        batch=spec.batch_size, tensor_parallel_degree=spec.tensor_parallel_degree, cache_bytes=cache_bytes(spec.dtype)
    )  # fmt: skip
    need = memory(config, spec.dtype, rows, max_target=max_target)
    context = 0.0 if spec.device == "cpu" else need.reserve_bytes
    each_gib = (need.total_bytes - need.reserve_bytes + context) / GIB
    parts = (
        f"weights {need.weights_bytes / GIB:.2f} + keys and values {need.kv_bytes / GIB:.2f} + workspace "
        f"{(need.workspace_bytes + context) / GIB:.2f} = {each_gib:.2f} GiB"
    )
    what = f"{spec.dtype}, batch {spec.batch_size}, tensor_parallel_degree {spec.tensor_parallel_degree}"
    if spec.device == "cpu":
        wanted = spec.workers * spec.tensor_parallel_degree * each_gib + SERVER_GIB
        room, where = USABLE_FRAC * instance.host_gib, f"host of {instance.host_gib:g} GiB"
        parts += (
            f", x {spec.workers * spec.tensor_parallel_degree} processes + server {SERVER_GIB:g} = {wanted:.2f} GiB"
        )
    else:
        wanted, room = each_gib, USABLE_FRAC * instance.accelerator_gib
        where = f"{instance.chip} of {instance.accelerator_gib:g} GiB"
    if wanted > room:
        raise SpecInvalid(
            f"sagemaker: the model does not fit {instance.name}: {what}: {parts}; each {where} leaves {room:.2f} GiB; "
            "take a higher tensor_parallel_degree, a smaller dtype or batch, or a larger instance"
        )
    return f"{what}: {parts}; each {where} leaves {room:.2f} GiB: fits"


def check_degree_of(spec: EngineSpec, instance: Instance) -> None:
    """check_degree with the configuration in the model's folder."""
    check_degree(spec, instance, _config(spec.model_dir))


def check_degree(spec: EngineSpec, instance: Instance, config: T5Config | None) -> None:
    """Raises SpecInvalid when tensor parallelism divides neither the heads nor the instance's devices."""
    degree, chips = spec.tensor_parallel_degree, instance.accelerators
    if config is not None and config.heads % degree:
        raise SpecInvalid(
            f"sagemaker: tensor_parallel_degree {degree} does not divide the model's {config.heads} heads; "
            f"it may be {_divisors(config.heads)}"
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


def _config(model_dir: Path) -> T5Config | None:
    try:
        return read_config(model_dir)
    except (EngineError, OSError):
        return None
