"""ONNX Runtime on graphs exported here from the Hugging Face folder (see onnx_export) and cached.

The loop around the graphs is plain Python; keys and values stay OrtValues from step to step, so only logits and ids
cross into numpy. int8 is ONNX Runtime's dynamic quantization: activations get one scale for the whole batch, so an
answer may change with its batch mates.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.api import (
    Backend,
    Capabilities,
    EngineFacts,
    EngineSpec,
    GenerateParams,
    GenerateRequest,
    TokenEvent,
)
from engines.artifact_cache import build_once, cache_root, check_unchanged, model_digest
from engines.beams import BeamSearches
from engines.decoding import Decoding, Ids, Logits, check_request, padded, renumbered
from engines.errors import ModelInvalid, Unavailable
from engines.isolated import run_isolated
from engines.model_folder import SpecialIds, read_config, special_ids
from engines.server.hosted import HostedEngine
from engines.spec_check import check_spec, flag, package_availability
from engines.threads import compute_threads

EXPORT = 2
"""Part of the cache key: raise it when onnx_export changes what it writes."""

_PACKAGES = ("onnxruntime",)
_EXPORT_PACKAGES = ("torch", "transformers", "onnx", "onnxscript")
_OPTIONS = {"spinning": "false: idle compute threads sleep instead of spinning (default true, as in ONNX Runtime)"}


class OnnxRuntimeEngine(HostedEngine):
    """ONNX Runtime behind our model server."""

    name = "onnxruntime"
    packages = _PACKAGES

    def capabilities(self) -> Capabilities:
        return capabilities()

    def prepare(self, spec: EngineSpec) -> None:
        """Export the model."""
        exported(spec.model_dir, spec.dtype, cache_root())


def capabilities() -> Capabilities:
    """The same for the engine and its backend."""
    return Capabilities(
        effective_dtypes={"fp32": "fp32", "int8": "int8 (dynamic)"},
        options=_OPTIONS,
        reasons={
            "bf16": "ONNX Runtime's CPU kernels for T5's operators have no bf16",
            "fp16": "ONNX Runtime's CPU kernels compute fp16 in fp32 behind casts: slower, and no smaller in memory",
            "int4": "this adapter quantizes to int8 only",
            "tensor_parallel_degree": "ONNX Runtime runs one graph on one device",
        },
    )


class OnnxRuntimeBackend(Backend):
    """Two sessions in this process, on CPU."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Exports at first use. Raises ModelInvalid, SpecInvalid, Unavailable, MemoryError."""
        check_spec(spec, capabilities())
        config = read_config(spec.model_dir)
        self._special: SpecialIds = special_ids(spec.model_dir)
        self._vocab_size = int(config["vocab_size"])
        began = time.monotonic()
        folder = exported(spec.model_dir, spec.dtype, cache_root())
        loading = time.monotonic()
        self._open(folder, compute_threads(spec), flag(spec, "spinning", True))
        params = GenerateParams(max_new_tokens=4, min_new_tokens=4)
        for _ in self.generate([GenerateRequest(input_ids=(2, self._special.eos[0]), params=params)]):
            pass
        return EngineFacts(
            effective_dtype=capabilities().effective_dtypes[spec.dtype],
            versions=package_availability(_PACKAGES, "onnxruntime").versions,
            load_s=time.monotonic() - loading,
            notes=(
                f"exported model {folder}, ready in {loading - began:.1f} s (not part of load)",
                f"{compute_threads(spec)} threads",
            ),
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

    def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        for request in batch:
            check_request(request, self._vocab_size)
        greedy = [index for index, request in enumerate(batch) if request.params.num_beams == 1]
        beams = [index for index, request in enumerate(batch) if request.params.num_beams > 1]
        return self._events(batch, greedy, beams)

    def _events(
        self, batch: Sequence[GenerateRequest], greedy: Sequence[int], beams: Sequence[int]
    ) -> Iterator[Sequence[TokenEvent]]:
        if greedy:
            yield from renumbered(self._decode([batch[index] for index in greedy]), greedy)
        if beams:
            yield from renumbered(self._beam_search([batch[index] for index in beams]), beams)

    def _decode(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        decoding = Decoding(batch, self._special)
        state = self._encode(*padded(batch, self._special.pad))
        while not decoding.is_done:
            yield decoding.step(self._step(state, decoding.next_ids))
            keep = decoding.shrink()
            if keep is not None:
                self._select(state, list(state), keep)

    def _beam_search(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        searches = BeamSearches(batch, self._special)
        state = self._encode(*padded(batch, self._special.pad))
        self._select(state, list(state), searches.sources)
        while not searches.is_done:
            events = searches.step(self._step(state, searches.next_ids))
            if events:
                yield events
            # The rows of one search share their source: only a search that ended changes masks and cross-attention.
            self._select(state, list(state) if searches.has_closed else self._past_names, searches.sources)

    def _select(self, state: dict[str, Any], names: Sequence[str], rows: Ids) -> None:
        """Rows of the named inputs, repeated or left out as `rows` says."""
        for name in names:
            state[name] = self._value(state[name].numpy()[rows])

    def _encode(self, ids: Ids, mask: Ids) -> dict[str, Any]:
        """The decoder's inputs that stay (mask, cross keys and values) and empty pasts."""
        inputs = {"ids": self._value(ids), "mask": self._value(mask)}
        cross = self._encoder.run_with_ort_values(self._cross_names, inputs)
        empty = np.zeros((len(ids), self._heads, 0, self._head_dim), dtype=np.float32)
        past = {name: self._value(empty) for name in self._past_names}
        return {"mask": inputs["mask"], **dict(zip(self._cross_names, cross, strict=True)), **past}

    def _step(self, state: dict[str, Any], next_ids: Ids) -> Logits:
        """Logits [B, V]; replaces the pasts in `state`."""
        state["ids"] = self._value(next_ids)
        logits, *present = self._decoder.run_with_ort_values(self._outputs, state)
        state.update(zip(self._past_names, present, strict=True))
        array: Logits = logits.numpy()
        return array

    def close(self) -> None:
        del self._encoder, self._decoder


def exported(model_dir: Path, dtype: str, cache: Path) -> Path:
    """The cached folder of ONNX graphs of a Hugging Face folder. Raises ModelInvalid, Unavailable."""
    digest = model_digest(model_dir)
    versions = package_availability(("onnxruntime", "torch"), "onnxruntime").versions
    name = f"{digest}-{dtype}-ort{versions['onnxruntime']}-torch{versions.get('torch', '')}-v{EXPORT}"

    def build(folder: Path) -> None:
        available = package_availability(_EXPORT_PACKAGES, "onnxruntime")
        if not available.is_available:
            raise Unavailable(f"onnxruntime must export {model_dir} first: {available.reason}")
        if dtype == "int8":
            run_isolated("engines.onnx_export:quantize", [str(exported(model_dir, "fp32", cache)), str(folder)])
        else:
            run_isolated("engines.onnx_export:export", [str(model_dir), str(folder)])
            check_unchanged(model_dir, digest)

    return build_once(cache / "onnxruntime" / name, build)
