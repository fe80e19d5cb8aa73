"""Adapter for OpenVINO on the ONNX graphs exported here from the Hugging Face folder (see onnx_export).

Keys and values either go in and out of every step as tensors, or stay inside as the runtime's own state (`stateful`).
int8 is nncf's weight compression: every matrix and the embeddings as u8 with a scale and a zero point per channel, kept
as OpenVINO's own files. nncf is needed to make them, not to serve them; the result needs no calibration data.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from engines.adapters.transformers import has_native_bf16
from engines.api import Capabilities, EngineFacts, EngineSpec
from engines.cache_folder import cache_root
from engines.environments.packages import package_availability
from engines.errors import ModelInvalid, SpecInvalid, Unavailable
from engines.generation.onnx_loop import GraphBackend
from engines.generation.token_choice import Ids, Logits
from engines.hosted import CONVERTED_FEATURES, HostedEngine
from engines.models.cache import build_once, model_digest
from engines.models.folder import special_ids
from engines.models.generation_defaults import model_notes
from engines.models.kind import model_kind
from engines.models.onnx_cache import exported
from engines.processes.call_in_child import answer_call, call_in_child
from engines.processes.threads import compute_threads
from engines.spec_check import check_spec, choice, flag

_PACKAGES = ("openvino",)
COMPRESSION = 1
"""Part of the cache key: raise it when `compress` changes what it writes."""
GRAPHS = ("encoder", "decoder")
_COMPRESSOR = ("nncf",)
_PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_WEIGHTS_ONLY = "int8 weights, fp32 activations"
_ACTIVATIONS = {"fp32": (0, _WEIGHTS_ONLY), "int8": (32, "int8 weights and activations (dynamic, groups of 32)")}
"""Of int8: OpenVINO's DYNAMIC_QUANTIZATION_GROUP_SIZE, and what that computes in where the CPU has VNNI."""
_OPTIONS = {
    "stateful": "true: keys and values stay inside the runtime from step to step (default false)",
    "activations": "of dtype int8, fp32 or int8: OpenVINO quantizes them as they come, with VNNI only (default fp32)",
}


class OpenVinoEngine(HostedEngine):
    """OpenVINO behind our model server."""

    name = "openvino"
    packages = _PACKAGES
    features = CONVERTED_FEATURES

    def capabilities(self) -> Capabilities:
        return capabilities()

    def prepare(self, spec: EngineSpec) -> None:
        """Export the model, and compress it for int8."""
        model_graphs(spec.model_dir, spec.dtype, cache_root())


def capabilities() -> Capabilities:
    """The same for the engine and its backend."""
    reasons = {
        "fp16": "OpenVINO computes fp16 on a CPU only with AMX-FP16, and T5's FFN output overflows there",
        "int4": "this adapter compresses weights to int8 only",
        "tensor_parallel_degree": "OpenVINO runs one graph on one device",
    }
    if not has_native_bf16():
        reasons["bf16"] = "this CPU has no bf16 instructions, and OpenVINO then computes in fp32"
    effective = {dtype: dtype for dtype in (("fp32", "bf16") if has_native_bf16() else ("fp32",))}
    if all(find_spec(name) for name in _COMPRESSOR):
        effective["int8"] = _WEIGHTS_ONLY
    else:
        reasons["int8"] = (
            "OpenVINO's weights are compressed by nncf, which is not installed here: `dyno engine install openvino`, "
            "then python: auto (or pip install nncf)"
        )
    return Capabilities(effective_dtypes=effective, options=_OPTIONS, reasons=reasons, features=CONVERTED_FEATURES)


def model_graphs(model_dir: Path, dtype: str, cache: Path) -> tuple[Path, str]:
    """The folder with both graphs for `dtype`, made at first use, and the suffix of their files.

    Raises ModelInvalid, Unavailable.
    """
    graphs = exported(model_dir, "fp32", cache, "openvino")
    if dtype != "int8":
        return graphs, ".onnx"
    available = package_availability((*_PACKAGES, *_COMPRESSOR), "openvino")
    made_by = "-".join(f"{name}{available.versions.get(name, '')}" for name in (*_PACKAGES, *_COMPRESSOR))

    def build(folder: Path) -> None:
        if not available.is_available:
            raise Unavailable(f"openvino must compress {model_dir} first: {available.reason}")
        call_in_child("engines.adapters.openvino", "compress", [str(graphs), str(folder)])

    return build_once(cache / "openvino" / f"{model_digest(model_dir)}-int8-{made_by}-v{COMPRESSION}", build), ".xml"


def compress(source: str, target: str) -> None:
    """The graphs of `source` with int8 weights as OpenVINO files in `target`; runs in a separate process."""
    import nncf
    import openvino

    core = openvino.Core()
    for name in GRAPHS:
        whole = core.read_model(str(Path(source) / f"{name}.onnx"))
        small = nncf.compress_weights(whole, mode=nncf.CompressWeightsMode.INT8_ASYM)
        openvino.save_model(small, str(Path(target) / f"{name}.xml"), compress_to_fp16=False)


class OpenVinoBackend(GraphBackend):
    """Two compiled graphs in this process, on CPU."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Exports at first use. Raises ModelInvalid, SpecInvalid, Unavailable, MemoryError."""
        check_spec(spec, capabilities())
        self._is_stateful = flag(spec, "stateful", False)
        group_size, compressed = _ACTIVATIONS[choice(spec, "activations", tuple(_ACTIVATIONS), "fp32")]
        if group_size and spec.dtype != "int8":
            raise SpecInvalid(f"openvino: option activations=int8 goes with dtype int8, not {spec.dtype}")
        began = time.monotonic()
        folder, suffix = model_graphs(spec.model_dir, spec.dtype, cache_root())
        loading = time.monotonic()
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[spec.dtype],
            "INFERENCE_NUM_THREADS": compute_threads(spec),
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": group_size,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        precision = self._open([folder / f"{name}{suffix}" for name in GRAPHS], settings)
        self._use(special_ids(spec.model_dir), model_kind(spec.model_dir).vocab_size)
        return EngineFacts(
            effective_dtype=compressed if spec.dtype == "int8" else {"f32": "fp32"}.get(precision, precision),
            versions=package_availability(_PACKAGES, "openvino").versions,
            load_s=time.monotonic() - loading,
            notes=(
                f"exported model {folder}, ready in {loading - began:.1f} s (not part of load)",
                f"{compute_threads(spec)} threads",
                "keys and values in the runtime's state" if self._is_stateful else "keys and values passed every step",
                *model_notes(spec.model_dir),
            ),
            converted_dir=str(folder),
        )

    def _open(self, files: list[Path], settings: dict[str, Any]) -> str:
        """Compile encoder and decoder; the precision they really run in."""
        import openvino
        from openvino._offline_transformations import apply_make_stateful_transformation

        self._tensor = openvino.Tensor
        core = openvino.Core()
        try:
            encoder, decoder = (core.read_model(str(file)) for file in files)
            self._kept = [item.get_any_name() for item in decoder.outputs][1:]
            first = next(item for item in decoder.inputs if item.get_any_name() == f"past_{self._kept[0]}")
            self._heads, self._head_dim = (first.partial_shape[axis].get_length() for axis in (1, 3))
            if self._is_stateful:
                apply_make_stateful_transformation(decoder, {f"past_{name}": name for name in self._kept})
            self._encoder = core.compile_model(encoder, "CPU", settings)
            self._decoder = core.compile_model(decoder, "CPU", settings)
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            raise ModelInvalid(
                f"{files[0].parent}: OpenVINO cannot open it: {why}; delete the folder to export again"
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


if __name__ == "__main__":
    answer_call(compress)
