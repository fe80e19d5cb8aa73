"""The converted weights that a model folder for somebody else's server carries, so that nothing is converted there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engines.api import EngineSpec
from engines.cache_folder import cache_root


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """`name`: the folder that a handler looks into. `made`: where it is here. `form`: what distinguishes it from
    another conversion of the same model."""

    name: str
    made: Path
    form: str


def _ctranslate2(spec: EngineSpec) -> Conversion:
    from engines.adapters.ctranslate2 import COMPUTE_TYPES
    from engines.models.ctranslate2_cache import CARRIED, converted, form

    kind = COMPUTE_TYPES[spec.dtype]
    return Conversion(name=CARRIED, made=converted(spec.model_dir, kind, cache_root()), form=form(kind))


def _onnxruntime(spec: EngineSpec) -> Conversion:
    from engines.models.onnx_cache import CARRIED, exported, form

    made = exported(spec.model_dir, spec.dtype, cache_root(), "onnxruntime")
    return Conversion(name=CARRIED, made=made, form=form(spec.dtype))


CONVERSIONS: dict[str, Callable[[EngineSpec], Conversion]] = {
    "ctranslate2": _ctranslate2,
    "onnxruntime": _onnxruntime,
}
"""Engine -> what it makes of the weights of a spec, made at first use: minutes for a large model. Raises ModelInvalid,
Unavailable where the converter's packages are not installed here."""
