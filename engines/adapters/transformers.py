"""Adapter for Hugging Face transformers on torch: the reference that every other engine's answers are compared with."""

from __future__ import annotations

import time
from pathlib import Path

from engines.api import Capabilities, EngineFacts, EngineSpec
from engines.environments.packages import package_availability
from engines.errors import SpecInvalid
from engines.generation.decoder_model import StaticSteps, decode_model
from engines.generation.torch_loop import TorchBackend
from engines.generation.torch_static_step import StaticStep
from engines.hosted import LOADED_FEATURES, HostedEngine
from engines.models.checkpoint.generation_defaults import model_notes
from engines.models.checkpoint.kind import DECODER, SEQ2SEQ, ModelKind, model_kind
from engines.models.checkpoint.special_ids import special_ids
from engines.models.hugging_face import default_attention, load_model
from engines.option_values import AT_LEAST_ONE, FLAG, one_of
from engines.processes.threads import compute_threads
from engines.registry import REFERENCE_PACKAGES
from engines.spec_check import check_spec, choice, flag, whole_number

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # names in /proc/cpuinfo on x86 and Arm
_OPTIONS = {
    "compile": "true: torch.compile the decode step at load, 30 s and more (needs a C++ compiler)",
    "cache": "keys and values in caches that grow (dynamic, default) or lie ready (static; always so with compile)",
    "cache_source_tokens": "longest prompt of the static cache; longer batches run as with dynamic (default 128)",
    "cache_new_tokens": "most new tokens of the static cache; longer batches run as with dynamic (default 128)",
    "attn": "attention implementation: sdpa (default where transformers has it for the model) or eager",
}
_VALUES = {
    "compile": FLAG,
    "cache": one_of("dynamic", "static"),
    "cache_source_tokens": AT_LEAST_ONE,
    "cache_new_tokens": AT_LEAST_ONE,
    "attn": one_of("sdpa", "eager"),
}


class TransformersEngine(HostedEngine):
    """transformers behind our model server."""

    name = "transformers"
    packages = REFERENCE_PACKAGES
    features = LOADED_FEATURES

    def capabilities(self) -> Capabilities:
        return capabilities()


def capabilities() -> Capabilities:
    """The same for the engine and its backend."""
    return Capabilities(
        features=LOADED_FEATURES,
        effective_dtypes={**dtypes_in_torch(), "int8": "int8 (dynamic, torch)"},
        options=_OPTIONS,
        option_values=_VALUES,
        changes_answers={"batch_size": ("int8",)},  # torch scales int8 activations over the batch
        reasons={
            "int4": "torch has no int4 linear layers on this path",
            "tensor_parallel_degree": "transformers shards a model across GPUs only, and this adapter runs on the CPU",
        },
        model_kinds=(SEQ2SEQ, DECODER),
    )


def dtypes_in_torch() -> dict[str, str]:
    """What Hugging Face's models really compute in on this CPU, by the dtype asked for."""
    return {
        "fp32": "fp32",
        "bf16": "bf16" if has_native_bf16() else "bf16 (emulated)",
        "fp16": "fp16 (wo in fp32)",  # Hugging Face keeps T5's FFN output layer in fp32, or it overflows
    }


def torch_devices() -> tuple[str, ...]:
    """cpu, and cuda where a driver is there and torch is not its CPU build; torch itself is not asked."""
    has_driver = Path("/dev/nvidiactl").exists()
    is_cpu_build = package_availability(("torch",), "transformers").versions.get("torch", "+cpu").endswith("+cpu")
    return ("cpu", "cuda") if has_driver and not is_cpu_build else ("cpu",)


def has_native_bf16() -> bool:
    """Whether this CPU has bf16 arithmetic; without it torch converts to fp32 and back, usually slower than fp32."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return bool(lines) and bool(_BF16_FLAGS & set(lines[0].split()))


class TransformersBackend(TorchBackend):
    """One model in this process, on CPU."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Raises ModelInvalid, SpecInvalid, MemoryError."""
        began = time.monotonic()
        check_spec(spec, capabilities())
        kind = model_kind(spec.model_dir)
        check_int8(spec, kind)
        attention = choice(spec, "attn", _VALUES["attn"].choices, default_attention(spec.model_dir))
        is_compiled = flag(spec, "compile", False)
        usual = "static" if is_compiled else "dynamic"
        is_static = choice(spec, "cache", _VALUES["cache"].choices, usual) == "static"
        check_compile(spec, is_compiled, is_static)
        import torch

        torch.set_num_threads(compute_threads(spec))
        special = special_ids(spec.model_dir)
        model = load_model(spec.model_dir, spec.dtype, attention)
        static: StaticStep | StaticSteps | None = None
        if is_static:
            static = (StaticSteps if kind.is_decoder else StaticStep)(
                model,
                rows=spec.batch_size,
                source=whole_number(spec, "cache_source_tokens", 128),
                target=whole_number(spec, "cache_new_tokens", 128),
                is_compiled=is_compiled,
            )
        self._use(decode_model(model, special, static=static, rope_switch=kind.rope_switch), special, kind)
        notes = [f"attention {attention}", f"{torch.get_num_threads()} threads"]
        if spec.dtype == "bf16" and not has_native_bf16():
            notes.append("this CPU has no bf16 instructions: torch converts to fp32 and back")
        if static is not None:
            shape = f"{static.rows} rows, {static.source} source and {static.target} new tokens"
            notes.append(f"static cache of {shape}; a batch that does not fit runs with caches that grow")
        if is_compiled:
            notes.append("decode step compiled by torch.compile")
        return EngineFacts(
            effective_dtype=effective_dtype(spec.dtype, kind, capabilities()),
            versions=package_availability(REFERENCE_PACKAGES, "transformers").versions,
            load_s=time.monotonic() - began,
            notes=(*notes, *model_notes(spec.model_dir)),
        )


def effective_dtype(dtype: str, kind: ModelKind, able: Capabilities) -> str:
    """What a model of `kind` really computes in; only T5 keeps a part of fp16 in fp32."""
    return "fp16" if dtype == "fp16" and kind.is_decoder else able.effective_dtypes[dtype]


def check_int8(spec: EngineSpec, kind: ModelKind) -> None:
    """Raises SpecInvalid for a model whose layers torch's tool would leave as they are."""
    if spec.dtype == "int8" and kind.model_type == "gpt2":
        raise SpecInvalid(
            "transformers: dtype 'int8' refused for gpt2: its layers are Conv1D, which torch does not quantize"
        )


def check_compile(spec: EngineSpec, is_compiled: bool, is_static: bool) -> None:
    """Raises SpecInvalid for combinations that torch.compile does not do."""
    if is_compiled and spec.dtype == "int8":
        raise SpecInvalid(
            "transformers: option compile with dtype 'int8' refused: torch does not compile its int8 layers"
        )
    if is_compiled and not is_static:
        raise SpecInvalid(
            "transformers: option compile with cache 'dynamic' refused: growing caches recompile at every length; "
            "leave cache out or set it to static"
        )
