"""The serving files inside SageMaker's model.tar.gz: the user's own, or a serving.properties written from the axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from engines.api import EngineSpec
from engines.errors import SpecInvalid
from engines.registry import HF_ENTRY_POINT
from engines.sagemaker.package import PROPERTIES, properties_of, read_files
from engines.sagemaker.plan import OPTIONS
from engines.serving_properties.java_text import format_properties
from engines.serving_properties.write import HF_DTYPES, container_values, property_values

FIRST_DISABLE = (0, 27, 0)
"""Container version from which rolling_batch=disable exists; before it the key is left out."""


def code_files(spec: EngineSpec, is_lmi: bool, tag: str) -> dict[str, bytes]:
    """File name -> content, `option.model_id` not yet in it where the weights are ours to upload (see `with_weights`).

    Raises SpecInvalid: files that are no model, or axes that the image cannot serve.
    """
    source = str(spec.options.get("files", ""))
    if source:
        files = read_files(Path(source).expanduser())
        properties_of(files, source)
        return files
    hosts = str(spec.options.get("hosts", "transformers"))
    values = _lmi_values(spec, hosts, tag) if is_lmi else _own_values(spec, hosts)
    return {PROPERTIES: format_properties(values, comment="Written for a SageMaker endpoint.").encode()}


def names_its_model(files: Mapping[str, bytes]) -> bool:
    """Whether the properties name weights that are already somewhere the container can fetch them."""
    model_id = _model_id(files)
    return model_id.startswith("s3://") or (model_id != "" and not model_id.startswith(("/", ".", "~")))


def with_weights(files: Mapping[str, bytes], weights_uri: str) -> dict[str, bytes]:
    """The same files, served from `weights_uri`."""
    values = properties_of(files)
    values.pop("option.s3url", None)
    values.pop("option.pythonExecutable", None)  # a path of the machine that was measured
    values["option.model_id"] = weights_uri
    comment = "\n".join(
        line[1:].strip() for line in files[PROPERTIES].decode("utf-8").splitlines() if line.startswith("#")
    )
    return {**files, PROPERTIES: format_properties(values, comment=comment).encode()}


def _model_id(files: Mapping[str, bytes]) -> str:
    values = properties_of(files)
    return values.get("option.model_id", values.get("option.s3url", ""))


def _own_values(spec: EngineSpec, hosts: str) -> dict[str, str]:
    from engines.registry import BACKENDS

    if hosts not in BACKENDS:
        raise SpecInvalid(f"sagemaker: option hosts={hosts!r}: our server has {', '.join(BACKENDS)}")
    inner = {name: value for name, value in spec.options.items() if name not in OPTIONS}
    return property_values(replace(spec, options=inner), f"engines.{hosts}")


def _lmi_values(spec: EngineSpec, hosts: str, tag: str) -> dict[str, str]:
    if hosts != "transformers":
        raise SpecInvalid(
            f"sagemaker: image {tag} has no {hosts}; give option files (a folder written by `dyno recommend "
            "--container`), or an image that holds our server"
        )
    if spec.dtype not in HF_DTYPES:
        raise SpecInvalid(f"sagemaker: the LMI Hugging Face handler takes {', '.join(HF_DTYPES)}, not {spec.dtype}")
    return container_values(
        replace(spec, options={}, threads=None), HF_ENTRY_POINT, can_disable=_version(tag) >= FIRST_DISABLE
    )


def _version(tag: str) -> tuple[int, ...]:
    parts = tag.partition("-")[0].split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()
