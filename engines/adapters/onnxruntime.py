"""Adapter for ONNX Runtime on graphs exported here from the Hugging Face folder (see onnx_export) and cached.

The loop around the graphs is plain Python; keys and values stay OrtValues from step to step, so only logits and ids
cross into numpy. int8 is ONNX Runtime's dynamic quantization: activations get one scale for the whole batch, so an
answer may change with its batch mates.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from engines.api import Capabilities, EngineFacts, EngineSpec
from engines.cache_folder import cache_root
from engines.environments.packages import package_availability
from engines.errors import ModelInvalid
from engines.generation.onnx_loop import GraphBackend
from engines.generation.token_choice import Ids, Logits
from engines.hosted import CONVERTED_FEATURES, HostedEngine
from engines.models.folder import special_ids
from engines.models.generation_defaults import model_notes
from engines.models.kind import model_kind
from engines.models.onnx_cache import exported
from engines.processes.threads import compute_threads
from engines.spec_check import check_spec, flag

_PACKAGES = ("onnxruntime",)
_OPTIONS = {"spinning": "false: idle compute threads sleep instead of spinning (default true, as in ONNX Runtime)"}
_FEATURES = {**CONVERTED_FEATURES, "model_kinds": "T5", "openai": "completions"}


class OnnxRuntimeEngine(HostedEngine):
    """ONNX Runtime behind our model server."""

    name = "onnxruntime"
    packages = _PACKAGES
    features = _FEATURES

    def capabilities(self) -> Capabilities:
        return capabilities()

    def prepare(self, spec: EngineSpec) -> None:
        """Export the model."""
        exported(spec.model_dir, spec.dtype, cache_root(), self.name)


def capabilities() -> Capabilities:
    """The same for the engine and its backend."""
    return Capabilities(
        features=_FEATURES,
        effective_dtypes={"fp32": "fp32", "int8": "int8 (dynamic)"},
        options=_OPTIONS,
        reasons={
            "bf16": "ONNX Runtime's CPU kernels for T5's operators have no bf16",
            "fp16": "ONNX Runtime's CPU kernels compute fp16 in fp32 behind casts: slower, and no smaller in memory",
            "int4": "this adapter quantizes to int8 only",
            "tensor_parallel_degree": "ONNX Runtime runs one graph on one device",
        },
    )


class OnnxRuntimeBackend(GraphBackend):
    """Two sessions in this process, on CPU."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Exports at first use. Raises ModelInvalid, SpecInvalid, Unavailable, MemoryError."""
        check_spec(spec, capabilities())
        began = time.monotonic()
        folder = exported(spec.model_dir, spec.dtype, cache_root(), "onnxruntime")
        loading = time.monotonic()
        self._open(folder, compute_threads(spec), flag(spec, "spinning", True))
        self.use(special_ids(spec.model_dir), model_kind(spec.model_dir))
        return EngineFacts(
            effective_dtype=capabilities().effective_dtypes[spec.dtype],
            versions=package_availability(_PACKAGES, "onnxruntime").versions,
            load_s=time.monotonic() - loading,
            notes=(
                f"exported model {folder}, ready in {loading - began:.1f} s (not part of load)",
                f"{compute_threads(spec)} threads",
                *model_notes(spec.model_dir),
            ),
            converted_dir=str(folder),
        )

    def _open(self, folder: Path, threads: int, spins: bool) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
        try:
            self._encoder, self._decoder = (
                onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
                for name in ("encoder.onnx", "decoder.onnx")
            )
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise ModelInvalid(
                f"{folder}: ONNX Runtime cannot open it: {error}; delete the folder to export again"
            ) from error
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy
        self._cross_names = [output.name for output in self._encoder.get_outputs()]
        self._outputs = [output.name for output in self._decoder.get_outputs()]
        self._past_names = [f"past_{name}" for name in self._outputs[1:]]
        first = next(item for item in self._decoder.get_inputs() if item.name == self._past_names[0])
        self._heads, self._head_dim = int(first.shape[1]), int(first.shape[3])

    def encode(self, ids: Ids, mask: Ids) -> dict[str, Any]:
        inputs = {"ids": self._value(ids), "mask": self._value(mask)}
        cross = self._encoder.run_with_ort_values(self._cross_names, inputs)
        empty = np.zeros((len(ids), self._heads, 0, self._head_dim), dtype=np.float32)
        past = {name: self._value(empty) for name in self._past_names}
        return {"mask": inputs["mask"], **dict(zip(self._cross_names, cross, strict=True)), **past}

    def step(self, state: dict[str, Any], next_ids: Ids) -> Logits:
        state["ids"] = self._value(next_ids)
        logits, *present = self._decoder.run_with_ort_values(self._outputs, state)
        state.update(zip(self._past_names, present, strict=True))
        array: Logits = logits.numpy()
        return array

    def select(self, state: dict[str, Any], rows: Ids, *, has_new_sources: bool) -> None:
        for name in list(state) if has_new_sources else self._past_names:
            state[name] = self._value(state[name].numpy()[rows])

    def close(self) -> None:
        del self._encoder, self._decoder
