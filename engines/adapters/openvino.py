"""Adapter for OpenVINO: T5 on the ONNX graphs of onnx_export, decoder-only models on the graph of openvino_export.

T5's keys and values either go in and out of every step as tensors, or stay inside as the runtime's own state
(`stateful`). A decoder-only model runs in whole batches on the plain runtime, or, with rolling_batch, on OpenVINO
GenAI's continuous batching. int8 and int4 are nncf's weight compression, kept as OpenVINO's own files; nncf is needed
to make them, not to serve them; the result needs no calibration data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from engines.adapters.transformers import has_native_bf16
from engines.api import Capabilities, EngineFacts, EngineSpec, GenerateRequest, RollingBackend, TokenEvent
from engines.cache_folder import cache_root
from engines.environments.packages import package_availability
from engines.errors import ModelInvalid, SpecInvalid, Unavailable
from engines.generation.onnx_loop import GraphBackend
from engines.generation.openvino_decoder import DecoderGraph
from engines.generation.openvino_rolling import RollingDecoder
from engines.generation.token_choice import Ids, Logits
from engines.hosted import CONVERTED_FEATURES, HostedEngine
from engines.models.cache import build_once, carried, model_digest
from engines.models.checkpoint.generation_defaults import model_notes
from engines.models.checkpoint.kind import DECODER, SEQ2SEQ, SEQ2SEQ_TYPES, model_kind
from engines.models.checkpoint.special_ids import special_ids
from engines.models.conversion.onnx_cache import exported
from engines.models.conversion.openvino_cache import (
    CARRIED,
    COMPRESSED,
    COMPRESSION,
    T5_INT8,
    decoder_form,
    decoder_graph,
)
from engines.option_values import AT_LEAST_ONE, FLAG, one_of
from engines.processes.call_in_child import answer_call, call_in_child
from engines.processes.threads import compute_threads
from engines.spec_check import check_spec, choice, flag, whole_number

_PACKAGES = ("openvino",)
GRAPHS = ("encoder", "decoder")
FAMILIES = (
    *("gpt2", "opt", "bloom", "gptj", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma"),
    "gemma3_text",
)
"""Decoder-only families whose greedy answers and log-probabilities are Hugging Face's, both ways of batching."""
ROLLING_SLOTS = 32
"""Requests in flight where the option is not given, DJL's max_rolling_batch_size."""
_COMPRESSOR, _ROLLING = "nncf", "openvino_genai"
_INSTALL = "`dyno engine install openvino`, then python: auto"
_ACTIVATIONS = {
    "fp32": ("f32", 0, "fp32 activations"),
    "bf16": ("bf16", 0, "bf16 activations"),
    "int8": ("f32", 32, "int8 activations (dynamic, groups of 32)"),
}
"""Of compressed weights: OpenVINO's INFERENCE_PRECISION_HINT and DYNAMIC_QUANTIZATION_GROUP_SIZE, and what that
computes in where the CPU has VNNI."""
_KV = {"f32": ("f32", "f16", "u8"), "bf16": ("bf16", "u8")}
"""What keys and values may be kept in beside these activations; anything else OpenVINO refuses or leaves undone."""
_GATED = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma3_text")
_OPTIONS = {
    "stateful": "of T5, true: keys and values stay inside the runtime from step to step (default false)",
    "activations": "of dtype int8 and int4: fp32, bf16, or int8: OpenVINO quantizes them as they come, with VNNI only "
    "(default fp32)",
    "kv_cache": "of decoder-only models: keys and values as f32, f16 or u8, beside bf16 activations bf16 or u8 "
    "(default as the activations)",
    "max_slots": f"with rolling_batch: requests in flight (default {ROLLING_SLOTS})",
    "max_batched_tokens": "with rolling_batch: tokens of one step; longer prompts take several (default 256)",
}
_VALUES = {
    "stateful": FLAG,
    "activations": one_of(*_ACTIVATIONS),
    "kv_cache": one_of(*dict.fromkeys(word for words in _KV.values() for word in words)),
    "max_slots": AT_LEAST_ONE,
    "max_batched_tokens": AT_LEAST_ONE,
}
_ONLY_FOR = {
    "stateful": SEQ2SEQ,
    "kv_cache": DECODER,
    "max_slots": DECODER,
    "max_batched_tokens": DECODER,
    "int4": DECODER,
    "rolling_batch": DECODER,
}


class OpenVinoEngine(HostedEngine):
    """OpenVINO behind our model server."""

    name = "openvino"
    packages = _PACKAGES
    features = CONVERTED_FEATURES

    def capabilities(self) -> Capabilities:
        return capabilities()

    def prepare(self, spec: EngineSpec) -> None:
        """Export the model, and compress it for int8 and int4."""
        if model_kind(spec.model_dir).is_decoder:
            decoder_graph(spec.model_dir, spec.dtype, cache_root())
        else:
            model_graphs(spec.model_dir, spec.dtype, cache_root())


def capabilities(model_dir: Path | None = None) -> Capabilities:
    """The same for the engine and its backend, whose `model_dir` may hold weights that are compressed already."""
    reasons = {
        "fp16": "OpenVINO computes fp16 on a CPU only with AMX-FP16, and T5's FFN output overflows there",
        "tensor_parallel_degree": "OpenVINO runs one graph on one device",
        "soft_caps": "OpenVINO's attention has no soft caps, and the answers are others without them",
        "rope_longrope": "the exported graph has one set of rotary factors, and longrope changes them with the length",
        "rope_dynamic": "the exported graph has one set of rotary factors, and dynamic scaling changes them",
    }
    if not find_spec(_ROLLING):
        reasons["rolling_batch"] = f"OpenVINO GenAI does the rolling batch, and it is not installed here: {_INSTALL}"
    if not has_native_bf16():
        reasons["bf16"] = "this CPU has no bf16 instructions, and OpenVINO then computes in fp32"
    effective = {dtype: dtype for dtype in (("fp32", "bf16") if has_native_bf16() else ("fp32",))}
    missing = (
        f"OpenVINO's weights are compressed by nncf, which is not installed here: {_INSTALL} (or pip install nncf)"
    )
    for dtype in COMPRESSED:
        if find_spec(_COMPRESSOR) or (model_dir is not None and _are_carried(model_dir, dtype)):
            effective[dtype] = f"{_weights(dtype)}, {_ACTIVATIONS['fp32'][2]}"
        else:
            reasons[dtype] = missing
    return Capabilities(
        effective_dtypes=effective,
        has_rolling_batch=find_spec(_ROLLING) is not None,
        options=_OPTIONS,
        option_values=_VALUES,
        reasons=reasons,
        features=CONVERTED_FEATURES,
        model_kinds=(SEQ2SEQ, DECODER),
        architectures=(*SEQ2SEQ_TYPES, *FAMILIES),
        only_for=_ONLY_FOR,
    )


def _are_carried(model_dir: Path, dtype: str) -> bool:
    forms = (T5_INT8, decoder_form(dtype)) if dtype == "int8" else (decoder_form(dtype),)
    return any(carried(model_dir / CARRIED, form) is not None for form in forms)


def _weights(dtype: str) -> str:
    return "int4 weights (int8 embeddings and head)" if dtype == "int4" else f"{dtype} weights"


def model_graphs(model_dir: Path, dtype: str, cache: Path) -> Path:
    """The folder with both graphs of a T5 for `dtype`, made at first use.

    Raises ModelInvalid, Unavailable.
    """
    if dtype == "int8" and (found := carried(model_dir / CARRIED, T5_INT8)):
        return found
    graphs = exported(model_dir, "fp32", cache, "openvino")
    if dtype != "int8":
        return graphs
    available = package_availability((*_PACKAGES, _COMPRESSOR), "openvino")
    made_by = "-".join(f"{name}{available.versions.get(name, '')}" for name in (*_PACKAGES, _COMPRESSOR))

    def build(folder: Path) -> None:
        if not available.is_available:
            raise Unavailable(f"openvino must compress {model_dir} first: {available.reason}")
        call_in_child("engines.adapters.openvino", "compress", [str(graphs), str(folder)])

    return build_once(cache / "openvino" / f"{model_digest(model_dir)}-int8-{made_by}-v{COMPRESSION}", build)


def compress(source: str, target: str) -> None:
    """The T5 graphs of `source` with int8 weights as OpenVINO files in `target`; runs in a separate process."""
    os.environ["NNCF_CI"] = "1"  # else it reports its use to Google Analytics
    import nncf
    import openvino

    core = openvino.Core()
    for name in GRAPHS:
        whole = core.read_model(str(Path(source) / f"{name}.onnx"))
        small = nncf.compress_weights(whole, mode=nncf.CompressWeightsMode.INT8_ASYM)
        openvino.save_model(small, str(Path(target) / f"{name}.xml"), compress_to_fp16=False)


class OpenVinoBackend(RollingBackend):
    """One model in this process, on CPU; what runs it is chosen by its kind and by `rolling_batch`."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Exports at first use. Raises ModelInvalid, SpecInvalid, Unavailable, MemoryError."""
        check_spec(spec, capabilities(spec.model_dir))
        activations = choice(spec, "activations", tuple(_ACTIVATIONS), "fp32")
        if activations != "fp32" and spec.dtype not in COMPRESSED:
            raise SpecInvalid(
                f"openvino: option activations={activations} goes with dtype int8 or int4, not {spec.dtype}"
            )
        if activations == "bf16" and not has_native_bf16():
            raise SpecInvalid(f"openvino: option activations=bf16 refused: {capabilities().reasons['bf16']}")
        hint, group_size, _ = _ACTIVATIONS["bf16" if spec.dtype == "bf16" else activations]
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": compute_threads(spec),
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": group_size,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        began = time.monotonic()
        is_decoder = model_kind(spec.model_dir).is_decoder
        folder = (
            decoder_graph(spec.model_dir, spec.dtype, cache_root())
            if is_decoder
            else model_graphs(spec.model_dir, spec.dtype, cache_root())
        )
        loading = time.monotonic()
        effective, note = (self._load_decoder if is_decoder else self._load_t5)(spec, folder, settings)
        packages = (*_PACKAGES, _ROLLING) if spec.rolling_batch != "disable" else _PACKAGES
        return EngineFacts(
            effective_dtype=effective,
            versions=package_availability(packages, "openvino").versions,
            load_s=time.monotonic() - loading,
            notes=(
                f"exported model {folder}, ready in {loading - began:.1f} s (not part of load)",
                f"{compute_threads(spec)} threads",
                note,
                *model_notes(spec.model_dir),
            ),
            converted_dir=str(folder),
        )

    def _load_t5(self, spec: EngineSpec, folder: Path, settings: dict[str, Any]) -> tuple[str, str]:
        """What it computes in, and a note."""
        is_stateful = flag(spec, "stateful", False)
        pair = GraphPair(is_stateful)
        precision = pair.open(folder, spec.dtype in COMPRESSED, settings)
        pair.use(special_ids(spec.model_dir), model_kind(spec.model_dir))
        self._model: GraphPair | DecoderGraph | RollingDecoder = pair
        note = "keys and values in the runtime's state" if is_stateful else "keys and values passed every step"
        return _computes(spec, precision), note

    def _load_decoder(self, spec: EngineSpec, folder: Path, settings: dict[str, Any]) -> tuple[str, str]:
        """What it computes in, and a note."""
        hint = settings["INFERENCE_PRECISION_HINT"]
        special, kind = special_ids(spec.model_dir), model_kind(spec.model_dir)
        kv = choice(spec, "kv_cache", _KV[hint], hint)
        if hint == "bf16" and compute_threads(spec) == 1 and kind.model_type in _GATED and _has_amx():
            raise SpecInvalid(
                f"openvino: bf16 with 1 thread refused for {kind.model_type}: OpenVINO then divides by zero on a CPU "
                "with AMX (its issue 33300); give it 2 threads"
            )
        settings |= {"KV_CACHE_PRECISION": kv}
        if spec.rolling_batch == "disable":
            graph = DecoderGraph()
            precision = graph.open(folder, settings)
            graph.use(special, kind)
            self._model = graph
            return f"{_computes(spec, precision)}, {kv} KV", "whole batches, keys and values in the runtime's state"
        tokens = whole_number(spec, "max_batched_tokens", 256)
        rolling = RollingDecoder(special, kind, whole_number(spec, "max_slots", ROLLING_SLOTS))
        rolling.open(folder, settings, tokens)
        self._model = rolling
        return f"{_computes(spec, hint)}, {kv} KV", f"OpenVINO GenAI's continuous batching, {tokens} tokens a step"

    def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        assert isinstance(self._model, GraphBackend)
        return self._model.generate(batch)

    def admit(self, request: GenerateRequest) -> int | None:
        """See RollingDecoder."""
        return self._rolling().admit(request)

    def step(self) -> Sequence[TokenEvent]:
        """See RollingDecoder."""
        return self._rolling().step()

    def cancel(self, index: int) -> None:
        """See RollingDecoder."""
        self._rolling().cancel(index)

    def _rolling(self) -> RollingDecoder:
        assert isinstance(self._model, RollingDecoder)
        return self._model

    def close(self) -> None:
        self._model.close()


def _has_amx() -> bool:
    try:
        return " amx_tile " in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def _computes(spec: EngineSpec, precision: str) -> str:
    """What a graph that runs in `precision` is called."""
    if spec.dtype in COMPRESSED:
        return f"{_weights(spec.dtype)}, {_ACTIVATIONS[str(spec.options.get('activations', 'fp32'))][2]}"
    return {"f32": "fp32"}.get(precision, precision)


class GraphPair(GraphBackend):
    """T5's two compiled graphs in this process, on CPU."""

    def __init__(self, is_stateful: bool) -> None:
        self._is_stateful = is_stateful

    def open(self, folder: Path, is_compressed: bool, settings: dict[str, Any]) -> str:
        """Compile encoder and decoder; the precision they really run in."""
        import openvino
        from openvino._offline_transformations import apply_make_stateful_transformation

        self._tensor = openvino.Tensor
        core = openvino.Core()
        files = [folder / f"{name}{'.xml' if is_compressed else '.onnx'}" for name in GRAPHS]
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
                f"{folder}: OpenVINO cannot open it: {why}; delete the folder to export again"
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
