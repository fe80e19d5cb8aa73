"""The cache of decoder-only models exported for OpenVINO, fp32 or with compressed weights."""

from __future__ import annotations

from pathlib import Path

from engines.environments.packages import package_availability
from engines.errors import Unavailable
from engines.models.cache import build_once, carried, check_unchanged, model_digest
from engines.processes.call_in_child import call_in_child

GRAPH = "openvino_model.xml"
EXPORT = 1
"""Part of the cache key: raise it when openvino_export changes what it writes."""
COMPRESSION = 1
"""Of a T5's int8 weights: raise it when the adapter's `compress` changes what it writes."""
COMPRESSED = ("int8", "int4")
CARRIED = "openvino"
"""The folder inside a model folder that may carry its graphs along, with one of these forms in its cache.FORM file."""
T5_INT8 = f"t5-int8-v{COMPRESSION}"
_EXPORT_PACKAGES = ("torch", "transformers", "openvino")


def decoder_form(dtype: str) -> str:
    """What distinguishes a decoder-only model's graph for `dtype` from others of the same model."""
    return f"decoder-{dtype if dtype in COMPRESSED else 'fp32'}-v{EXPORT}"


def decoder_graph(model_dir: Path, dtype: str, cache: Path) -> Path:
    """The folder with the model's graph, made at first use; weights are fp32 for every dtype that is not in COMPRESSED.

    Raises ModelInvalid, Unavailable.
    """
    if found := carried(model_dir / CARRIED, decoder_form(dtype)):
        return found
    is_small = dtype in COMPRESSED
    digest = model_digest(model_dir)
    packages = ("openvino", "nncf") if is_small else _EXPORT_PACKAGES
    available = package_availability(packages, "openvino")
    made_by = "-".join(f"{name}{available.versions.get(name, '')}" for name in packages)
    name = f"{digest}-decoder-{dtype if is_small else 'fp32'}-{made_by}-v{EXPORT}"

    def build(folder: Path) -> None:
        if not available.is_available:
            verb = "compress" if is_small else "export"
            raise Unavailable(f"openvino must {verb} {model_dir} first: {available.reason}")
        module = "engines.models.conversion.openvino_export"
        if is_small:
            whole = decoder_graph(model_dir, "fp32", cache)
            call_in_child(module, "compress", [str(whole), str(folder), dtype])
        else:
            call_in_child(module, "export", [str(model_dir), str(folder)])
            check_unchanged(model_dir, digest)

    return build_once(cache / "openvino" / name, build)
