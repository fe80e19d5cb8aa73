"""OpenVINO on the graphs exported here from the Hugging Face folder (see onnx_export), read as ONNX.

Keys and values either go in and out of every step as tensors, or stay inside as the runtime's own state (`stateful`).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from engines.api import Capabilities, EngineFacts, EngineSpec
from engines.artifact_cache import cache_root
from engines.decoding import Ids, Logits
from engines.errors import ModelInvalid
from engines.graph_backend import GraphBackend
from engines.model_folder import read_config, special_ids
from engines.onnx_artifacts import exported
from engines.server.hosted import HostedEngine
from engines.spec_check import check_spec, flag, package_availability
from engines.threads import compute_threads
from engines.transformers import has_native_bf16

_PACKAGES = ("openvino",)
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
_OPTIONS = {"stateful": "true: keys and values stay inside the runtime from step to step (default false)"}
_FEATURES = {
    "model_parallel": "no",
    "loads_hugging_face": "converted once",
    "runtime_partition": "no",
    "ahead_of_time_partition": "no",
    "partition_on_cpu_memory": "no",
    "streaming": "yes",
    "fast_loading": "kept conversion",
    "hardware": "CPU",
}


class OpenVinoEngine(HostedEngine):
    """OpenVINO behind our model server."""

    name = "openvino"
    packages = _PACKAGES
    features = _FEATURES

    def capabilities(self) -> Capabilities:
        return capabilities()

    def prepare(self, spec: EngineSpec) -> None:
        """Export the model."""
        exported(spec.model_dir, "fp32", cache_root(), self.name)


def capabilities() -> Capabilities:
    """The same for the engine and its backend."""
    reasons = {
        "fp16": "OpenVINO computes fp16 on a CPU only with AMX-FP16, and T5's FFN output overflows there",
        "int8": "OpenVINO's weight compression needs nncf, whose pins do not fit; int8 is engine onnxruntime's",
        "int4": "OpenVINO's weight compression needs nncf, whose pins do not fit",
        "tensor_parallel_degree": "OpenVINO runs one graph on one device",
    }
    if not has_native_bf16():
        reasons["bf16"] = "this CPU has no bf16 instructions, and OpenVINO then computes in fp32"
    dtypes = ("fp32", "bf16") if has_native_bf16() else ("fp32",)
    return Capabilities(
        effective_dtypes={dtype: dtype for dtype in dtypes}, options=_OPTIONS, reasons=reasons, features=_FEATURES
    )


class OpenVinoBackend(GraphBackend):
    """Two compiled graphs in this process, on CPU."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Exports at first use. Raises ModelInvalid, SpecInvalid, Unavailable, MemoryError."""
        check_spec(spec, capabilities())
        self._is_stateful = flag(spec, "stateful", False)
        began = time.monotonic()
        folder = exported(spec.model_dir, "fp32", cache_root(), "openvino")
        loading = time.monotonic()
        precision = self._open(folder, compute_threads(spec), _PRECISIONS[spec.dtype])
        self._use(special_ids(spec.model_dir), int(read_config(spec.model_dir)["vocab_size"]))
        return EngineFacts(
            effective_dtype={"f32": "fp32"}.get(precision, precision),
            versions=package_availability(_PACKAGES, "openvino").versions,
            load_s=time.monotonic() - loading,
            notes=(
                f"exported model {folder}, ready in {loading - began:.1f} s (not part of load)",
                f"{compute_threads(spec)} threads",
                "keys and values in the runtime's state" if self._is_stateful else "keys and values passed every step",
            ),
        )

    def _open(self, folder: Path, threads: int, precision: str) -> str:
        """Compile both graphs; the precision they really run in."""
        import openvino
        from openvino._offline_transformations import apply_make_stateful_transformation

        self._tensor = openvino.Tensor
        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            encoder, decoder = (core.read_model(str(folder / name)) for name in ("encoder.onnx", "decoder.onnx"))
            self._kept = [item.get_any_name() for item in decoder.outputs][1:]
            first = next(item for item in decoder.inputs if item.get_any_name() == f"past_{self._kept[0]}")
            self._heads, self._head_dim = (first.partial_shape[axis].get_length() for axis in (1, 3))
            if self._is_stateful:
                apply_make_stateful_transformation(decoder, {f"past_{name}": name for name in self._kept})
            self._encoder = core.compile_model(encoder, "CPU", settings)
            self._decoder = core.compile_model(decoder, "CPU", settings)
        except RuntimeError as error:
            raise ModelInvalid(
                f"{folder}: OpenVINO cannot open it: {str(error).splitlines()[0]}; delete the folder to export again"
            ) from error
        self._encoding, self._decoding = self._encoder.create_infer_request(), self._decoder.create_infer_request()
        effective = self._decoder.get_property("INFERENCE_PRECISION_HINT")
        return str(effective.to_string()) if hasattr(effective, "to_string") else str(effective)

    def encode(self, ids: Ids, mask: Ids) -> dict[str, Any]:
        found = self._encoding.infer({"ids": ids, "mask": mask})
        state: dict[str, Any] = {item.get_any_name(): found[item].copy() for item in self._encoder.outputs}
        state["mask"] = mask
        empty = np.zeros((len(ids), self._heads, 0, self._head_dim), dtype=np.float32)
        if self._is_stateful:
            for kept in self._decoding.query_state():
                kept.state = self._tensor(empty)
        else:
            state |= {f"past_{name}": empty for name in self._kept}
        return state

    def step(self, state: dict[str, Any], next_ids: Ids) -> Logits:
        state["ids"] = next_ids
        found = self._decoding.infer(state, share_inputs=True)
        outputs = {item.get_any_name(): found[item] for item in self._decoder.outputs}
        if not self._is_stateful:  # copied: the request writes its next answer into the same memory
            state.update({f"past_{name}": outputs[name].copy() for name in self._kept})
        logits: Logits = outputs["logits"]
        return logits

    def select(self, state: dict[str, Any], rows: Ids, *, has_new_sources: bool) -> None:
        pasts = [name for name in state if name.startswith("past_")]
        for name in list(state) if has_new_sources else pasts:
            state[name] = np.ascontiguousarray(state[name][rows])
        if self._is_stateful:
            for kept in self._decoding.query_state():
                kept.state = self._tensor(np.ascontiguousarray(kept.state.data[rows]))

    def close(self) -> None:
        del self._encoding, self._decoding, self._encoder, self._decoder
