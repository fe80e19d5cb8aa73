"""Adapter for ONNX Runtime on graphs exported here from the Hugging Face folder and cached.

T5 is two graphs (onnx_export), a decoder-only model one that reads prompts and takes steps (onnx_decoder_export). The
loop around them is plain Python; keys and values stay OrtValues from step to step, so only logits and ids cross into
numpy. int8 is ONNX Runtime's dynamic quantization: activations get one scale for the whole batch, so an answer may
change with its batch mates. int4 is its MatMulNBits: a scale for 32 weights, activations rounded row by row.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.api import Capabilities, EngineFacts, EngineSpec, GenerateRequest, TokenEvent
from engines.cache_folder import cache_root
from engines.environments.packages import package_availability
from engines.errors import ModelInvalid, RequestInvalid
from engines.generation.onnx_loop import GraphBackend
from engines.generation.token_choice import Ids, Logits
from engines.hosted import CONVERTED_FEATURES, HostedEngine
from engines.models.checkpoint.generation_defaults import model_notes
from engines.models.checkpoint.kind import DECODER, SEQ2SEQ, SEQ2SEQ_TYPES, ModelKind, model_kind, why_beyond
from engines.models.checkpoint.special_ids import special_ids
from engines.models.conversion.onnx_cache import exported
from engines.option_values import FLAG
from engines.processes.threads import compute_threads
from engines.spec_check import check_spec, flag

_PACKAGES = ("onnxruntime",)
FAMILIES = (
    *("gpt2", "opt", "bloom", "gptj", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "phi", "phi3"),
    *("gemma", "gemma2", "gemma3_text"),
)
"""Decoder-only families whose greedy answers and scores are Hugging Face's (tests/engines/adapters)."""
_LEFT_OUT = ("rope_longrope",)
_OPTIONS = {"spinning": "false: idle compute threads sleep instead of spinning (default true, as in ONNX Runtime)"}


class OnnxRuntimeEngine(HostedEngine):
    """ONNX Runtime behind our model server."""

    name = "onnxruntime"
    packages = _PACKAGES
    features = CONVERTED_FEATURES

    def capabilities(self) -> Capabilities:
        return capabilities()

    def prepare(self, spec: EngineSpec) -> None:
        """Export the model."""
        exported(spec.model_dir, spec.dtype, cache_root(), self.name)


def capabilities() -> Capabilities:
    """The same for the engine and its backend."""
    return Capabilities(
        features=CONVERTED_FEATURES,
        effective_dtypes={"fp32": "fp32", "int8": "int8 (dynamic)", "int4": "int4 weights, int8 activations"},
        options=_OPTIONS,
        option_values={"spinning": FLAG},
        changes_answers={"batch_size": ("int8",), "options.spinning": ()},  # int8 scales activations over the batch
        model_kinds=(SEQ2SEQ, DECODER),
        architectures=(*SEQ2SEQ_TYPES, *FAMILIES),
        leaves_out=dict.fromkeys(_LEFT_OUT, FAMILIES),
        reasons={
            "rope_dynamic": "the exported graph has one set of rotary factors, and dynamic scaling changes them",
            "bf16": "ONNX Runtime's CPU kernels for these operators have no bf16",
            "fp16": "ONNX Runtime's CPU kernels compute fp16 in fp32 behind casts: slower, and no smaller in memory",
            "tensor_parallel_degree": "ONNX Runtime runs one graph on one device",
        },
    )


class OnnxRuntimeBackend(GraphBackend):
    """The sessions of one model in this process, on CPU."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Exports at first use. Raises ModelInvalid, SpecInvalid, Unavailable, MemoryError."""
        check_spec(spec, capabilities())
        began = time.monotonic()
        folder = exported(spec.model_dir, spec.dtype, cache_root(), "onnxruntime")
        loading = time.monotonic()
        kind = model_kind(spec.model_dir)
        opened = _opened(folder, compute_threads(spec), flag(spec, "spinning", True))
        self._graph = _DecoderOnly(*opened) if kind.is_decoder else _EncoderDecoder(*opened)
        self.use(special_ids(spec.model_dir), kind)
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

    def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        for request in batch:
            _check_switch(request, self._kind)
        return super().generate(batch)

    def encode(self, ids: Ids, mask: Ids) -> dict[str, Any]:
        return self._graph.encode(ids, mask)

    def step(self, state: dict[str, Any], next_ids: Ids) -> Logits:
        return self._graph.step(state, next_ids)

    def select(self, state: dict[str, Any], rows: Ids, *, has_new_sources: bool) -> None:
        self._graph.select(state, rows, has_new_sources=has_new_sources)

    def close(self) -> None:
        del self._graph


def _check_switch(request: GenerateRequest, kind: ModelKind) -> None:
    """Raises RequestInvalid where a longrope model would turn to its long factors: the graph has the short ones."""
    total = len(request.input_ids) + request.params.max_new_tokens
    if reason := why_beyond("the exported graph", kind, total, _LEFT_OUT):
        raise RequestInvalid(f"onnxruntime: {reason}")


def _opened(folder: Path, threads: int, spins: bool) -> list[Any]:
    """The sessions of the folder's graphs, an encoder's first. Raises ModelInvalid."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    paths = [path for name in ("encoder.onnx", "decoder.onnx") if (path := folder / name).is_file()]
    try:
        return [onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in paths]
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        raise ModelInvalid(
            f"{folder}: ONNX Runtime cannot open it: {error}; delete the folder to export again"
        ) from error


class _Graph:
    """A session with keys and values of earlier tokens among its inputs and outputs."""

    def __init__(self, session: Any) -> None:
        import onnxruntime

        self._session = session
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy
        self._outputs = [output.name for output in session.get_outputs()]
        self._past_names = [f"past_{name}" for name in self._outputs[1:]]
        first = next(item for item in session.get_inputs() if item.name == self._past_names[0])
        self._heads, self._head_dim = int(first.shape[1]), int(first.shape[3])

    def _empty(self, rows: int) -> dict[str, Any]:
        empty = np.zeros((rows, self._heads, 0, self._head_dim), dtype=np.float32)
        return {name: self._value(empty) for name in self._past_names}

    def _run(self, state: dict[str, Any]) -> Logits:
        """Logits [B,V]; the pasts in `state` grow."""
        logits, *present = self._session.run_with_ort_values(self._outputs, state)
        state.update(zip(self._past_names, present, strict=True))
        array: Logits = logits.numpy()
        return array

    def _select(self, state: dict[str, Any], names: Sequence[str], rows: Ids) -> None:
        for name in names:
            state[name] = self._value(state[name].numpy()[rows])


class _EncoderDecoder(_Graph):
    """T5: the encoder's session, then the decoder's."""

    def __init__(self, encoder: Any, decoder: Any) -> None:
        super().__init__(decoder)
        self._encoder = encoder
        self._cross_names = [output.name for output in encoder.get_outputs()]

    def encode(self, ids: Ids, mask: Ids) -> dict[str, Any]:
        inputs = {"ids": self._value(ids), "mask": self._value(mask)}
        cross = self._encoder.run_with_ort_values(self._cross_names, inputs)
        return {"mask": inputs["mask"], **dict(zip(self._cross_names, cross, strict=True)), **self._empty(len(ids))}

    def step(self, state: dict[str, Any], next_ids: Ids) -> Logits:
        state["ids"] = self._value(next_ids)
        return self._run(state)

    def select(self, state: dict[str, Any], rows: Ids, *, has_new_sources: bool) -> None:
        self._select(state, list(state) if has_new_sources else self._past_names, rows)


class _DecoderOnly(_Graph):
    """One session. Reading the prompts gives the logits of the first step already."""

    def encode(self, ids: Ids, mask: Ids) -> dict[str, Any]:
        state = {"ids": self._value(ids), "mask": self._value(mask), **self._empty(len(ids))}
        first = self._run(state)
        return {"first": first, "graph": state}

    def step(self, state: dict[str, Any], next_ids: Ids) -> Logits:
        first: Logits | None = state.pop("first", None)
        if first is not None:
            return first
        graph = state["graph"]
        mask = graph["mask"].numpy()
        graph["mask"] = self._value(np.concatenate([mask, np.ones((len(mask), 1), dtype=np.int64)], axis=1))
        graph["ids"] = self._value(next_ids)
        return self._run(graph)

    def select(self, state: dict[str, Any], rows: Ids, *, has_new_sources: bool) -> None:
        self._select(state["graph"], [*self._past_names, *(["mask"] if has_new_sources else [])], rows)
        if "first" in state:
            state["first"] = state["first"][rows]
