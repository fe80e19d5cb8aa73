"""The cache of ONNX graphs exported from a model folder, shared by the engines that run them."""

from __future__ import annotations

from pathlib import Path

from engines.environments.packages import package_availability
from engines.errors import Unavailable
from engines.models.cache import build_once, carried, check_unchanged, model_digest
from engines.models.checkpoint.kind import model_kind
from engines.processes.call_in_child import call_in_child

EXPORT = 2
"""Part of the cache key: raise it when onnx_export changes what it writes."""

CARRIED = "onnx"
"""The folder inside a model folder that may carry its graphs along, with what `form` gives in its cache.FORM file."""

QUANTIZERS = {"int8": "quantize", "int4": "quantize_int4"}
"""The function of onnx_export that makes graphs of this dtype from those of fp32."""

_EXPORT_PACKAGES = ("torch", "transformers", "onnx", "onnxscript")


def form(dtype: str) -> str:
    """What distinguishes the graphs of one dtype and export from others of the same model."""
    return f"{dtype}-v{EXPORT}"


def exported(model_dir: Path, dtype: str, cache: Path, engine: str) -> Path:
    """The folder with encoder.onnx and decoder.onnx, fp32, int8 or int4 (onnxruntime's quantizers), for `engine`.

    Raises ModelInvalid, Unavailable.
    """
    if found := carried(model_dir / CARRIED, form(dtype)):
        return found
    digest = model_digest(model_dir)
    versions = package_availability(("onnxruntime", "torch"), engine).versions
    quantizer = f"-ort{versions.get('onnxruntime', '')}" if dtype in QUANTIZERS else ""
    name = f"{digest}-{dtype}{quantizer}-torch{versions.get('torch', '')}-v{EXPORT}"

    def build(folder: Path) -> None:
        available = package_availability(_EXPORT_PACKAGES, engine)
        if not available.is_available:
            raise Unavailable(f"{engine} must export {model_dir} first: {available.reason}")
        if dtype in QUANTIZERS:
            exact = exported(model_dir, "fp32", cache, engine)
            call_in_child("engines.models.conversion.onnx_export", QUANTIZERS[dtype], [str(exact), str(folder)])
        else:
            module = "onnx_decoder_export" if model_kind(model_dir).is_decoder else "onnx_export"
            call_in_child(f"engines.models.conversion.{module}", "export", [str(model_dir), str(folder)])
            check_unchanged(model_dir, digest)

    return build_once(cache / "onnx" / name, build)
