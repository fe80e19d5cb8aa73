"""The converted weights that a model folder for somebody else's server carries, so that nothing is converted there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engines.api import EngineSpec
from engines.cache_folder import cache_root


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """`name`: the folder that a handler looks into. `made`: where it is here. `form`: what distinguishes it from
    another conversion of the same model."""

    name: str
    made: Path
    form: str


class Converts(Protocol):
    """The conversion of a spec's weights: `made` where it is known, else made at first use."""

    def __call__(self, spec: EngineSpec, made: Path | None = None) -> Conversion: ...


def _ctranslate2(spec: EngineSpec, made: Path | None = None) -> Conversion:
    from engines.adapters.ctranslate2 import COMPUTE_TYPES
    from engines.models.conversion.ctranslate2_cache import CARRIED, converted, form

    kind = COMPUTE_TYPES[spec.dtype]
    return Conversion(name=CARRIED, made=made or converted(spec.model_dir, kind, cache_root()), form=form(kind))


def _onnxruntime(spec: EngineSpec, made: Path | None = None) -> Conversion:
    from engines.models.conversion.onnx_cache import CARRIED, exported, form

    made = made or exported(spec.model_dir, spec.dtype, cache_root(), "onnxruntime")
    return Conversion(name=CARRIED, made=made, form=form(spec.dtype))


def _openvino(spec: EngineSpec, made: Path | None = None) -> Conversion:
    from engines.adapters.openvino import model_graphs
    from engines.models.checkpoint.kind import model_kind
    from engines.models.conversion import onnx_cache, openvino_cache

    if model_kind(spec.model_dir).is_decoder:
        made = made or openvino_cache.decoder_graph(spec.model_dir, spec.dtype, cache_root())
        return Conversion(name=openvino_cache.CARRIED, made=made, form=openvino_cache.decoder_form(spec.dtype))
    made = made or model_graphs(spec.model_dir, spec.dtype, cache_root())
    if spec.dtype == "int8":
        return Conversion(name=openvino_cache.CARRIED, made=made, form=openvino_cache.T5_INT8)
    return Conversion(name=onnx_cache.CARRIED, made=made, form=onnx_cache.form("fp32"))


CONVERSIONS: dict[str, Converts] = {
    "ctranslate2": _ctranslate2,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
"""Engine -> what it makes of the weights of a spec, made at first use: minutes for a large model. Raises ModelInvalid,
Unavailable where the converter's packages are not installed here."""
