"""Adapter for Hugging Face Accelerate: one model whose layers are spread over devices, CPU memory and disk.

A batch runs through the layers in turn, wherever they are (a pipeline of one batch); what is offloaded is brought in
for its moment and dropped again. `device_map` and the limits decide the placement; the facts report the result.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from engines.adapters.transformers import dtypes_in_torch, effective_dtype, has_native_bf16, torch_devices
from engines.api import Capabilities, EngineFacts, EngineSpec
from engines.environments.packages import package_availability
from engines.errors import SpecInvalid
from engines.generation.decoder_model import decode_model
from engines.generation.torch_loop import TorchBackend
from engines.hosted import LOADED_FEATURES, HostedEngine
from engines.models.checkpoint.generation_defaults import model_notes
from engines.models.checkpoint.kind import DECODER, SEQ2SEQ, model_kind
from engines.models.checkpoint.special_ids import special_ids
from engines.models.hugging_face import default_attention, load_model
from engines.option_values import AT_LEAST_ONE, one_of
from engines.processes.threads import compute_threads
from engines.spec_check import check_spec, choice, whole_number

_PACKAGES = ("torch", "transformers", "accelerate")
_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_MIB = 1 << 20
_OPTIONS = {
    "device_map": "how layers are dealt out: auto (default), balanced, balanced_low_0, sequential",
    "max_cpu_memory_mib": "weights kept in CPU memory at most; the rest is read from disk at every step (default: all)",
    "max_gpu_memory_mib": "weights kept on each GPU at most; the rest goes to CPU memory (default: what is free)",
}
_VALUES = {
    "device_map": one_of(*_MAPS),
    "max_cpu_memory_mib": AT_LEAST_ONE,
    "max_gpu_memory_mib": AT_LEAST_ONE,
}
_FEATURES = {
    **LOADED_FEATURES,
    "model_parallel": "layers over devices",
    "runtime_partition": "yes",
    "partition_on_cpu_memory": "yes, and on disk",
    "hardware": "CPU, NVIDIA GPU (not yet run on one)",
}


class AccelerateEngine(HostedEngine):
    """accelerate behind our model server."""

    name = "accelerate"
    packages = _PACKAGES
    features = _FEATURES

    def capabilities(self) -> Capabilities:
        return capabilities()


def capabilities() -> Capabilities:
    """The same for the engine and its backend."""
    return Capabilities(
        features=_FEATURES,
        effective_dtypes=dtypes_in_torch(),
        devices=torch_devices(),
        options=_OPTIONS,
        option_values=_VALUES,
        reasons={
            "int8": "torch's int8 layers cannot be offloaded; use engine transformers",
            "int4": "torch has no int4 linear layers on this path",
            "tensor_parallel_degree": "accelerate splits a model between layers, never inside one; use device_map",
            "cuda": "no NVIDIA driver on this machine, or torch is its CPU build",
        },
        model_kinds=(SEQ2SEQ, DECODER),
    )


class AccelerateBackend(TorchBackend):
    """One model dealt out over the devices of this machine."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Raises ModelInvalid, SpecInvalid, MemoryError."""
        began = time.monotonic()
        check_spec(spec, capabilities())
        device_map = choice(spec, "device_map", _MAPS, "auto")
        import torch

        torch.set_num_threads(compute_threads(spec))
        special = special_ids(spec.model_dir)
        self._offload = tempfile.TemporaryDirectory(prefix="offload-")
        placement: dict[str, Any] = {"device_map": device_map, "offload_folder": self._offload.name}
        limits = max_memory(spec, torch.cuda.device_count() if spec.device != "cpu" else 0)
        if limits:
            placement["max_memory"] = limits
        elif spec.device == "cpu":
            placement["device_map"] = {"": "cpu"}
        kind = model_kind(spec.model_dir)
        model = load_model(spec.model_dir, spec.dtype, default_attention(spec.model_dir), **placement)
        device = "cuda:0" if spec.device != "cpu" else "cpu"
        self._use(decode_model(model, special, device=device, rope_switch=kind.rope_switch), special, kind)
        notes = [f"device_map {device_map}", *split_notes(model), f"{torch.get_num_threads()} threads"]
        if spec.dtype == "bf16" and not has_native_bf16():
            notes.append("this CPU has no bf16 instructions: torch converts to fp32 and back")
        return EngineFacts(
            effective_dtype=effective_dtype(spec.dtype, kind, capabilities()),
            versions=package_availability(_PACKAGES, "accelerate").versions,
            load_s=time.monotonic() - began,
            notes=(*notes, *model_notes(spec.model_dir)),
        )

    def close(self) -> None:
        super().close()
        self._offload.cleanup()


def max_memory(spec: EngineSpec, gpus: int) -> dict[int | str, int]:
    """Device -> bytes of weights, as accelerate wants it; empty for no limit. Raises SpecInvalid."""
    limits: dict[int | str, int] = {}
    if "max_gpu_memory_mib" in spec.options:
        if spec.device == "cpu":
            raise SpecInvalid("accelerate: option max_gpu_memory_mib with device 'cpu' refused; use max_cpu_memory_mib")
        limits = dict.fromkeys(range(gpus), whole_number(spec, "max_gpu_memory_mib", 1) * _MIB)
    if "max_cpu_memory_mib" in spec.options:
        limits["cpu"] = whole_number(spec, "max_cpu_memory_mib", 1) * _MIB
    return limits


def split_notes(model: Any) -> list[str]:
    """The placement: bytes of weights by device, and accelerate's own map."""
    parts: Mapping[str, Any] = getattr(model, "hf_device_map", None) or {"": "cpu"}
    sizes: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        sizes[_place(name, parts)] += parameter.numel() * parameter.element_size()
    split = ", ".join(f"{place} {size / _MIB:.1f} MiB" for place, size in sizes.most_common())
    return [f"weights: {split}", f"hf_device_map {json.dumps({part: str(place) for part, place in parts.items()})}"]


def _place(name: str, parts: Mapping[str, Any]) -> str:
    """The device of a parameter: that of the longest part around it."""
    inside = [part for part in parts if not part or name == part or name.startswith(part + ".")]
    return str(parts[max(inside, key=len)])
