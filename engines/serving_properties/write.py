"""Writing the text of serving.properties: every axis under its key, for our server and for other people's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from engines.api import EngineSpec
from engines.registry import HF_ENTRY_POINT
from engines.serving_properties.java_text import format_properties
from engines.serving_properties.read import ServerSettings
from engines.setting import AXES, Setting, is_newer_default

HF_DTYPES = ("fp32", "bf16", "fp16")
"""What it loads on a CPU too."""

LOADING_TIMEOUT_S = 1200
"""Code, image and documentation disagree on the default (240, 1200, 1800 s), so it is always written."""

MEASURED_WITH = {"OPT_OUT_TRACKING": "true", "SERVING_PROMETHEUS": "true"}
"""Variables of every launch of DJL Serving here that change the server and that no file can hold: it reports nothing to
its makers, and publishes /server/metrics. Forms of a recommendation that hold variables hold these."""


def spec_to_properties(spec: EngineSpec, loading_timeout_s: float | None = None) -> str:
    """serving.properties text that `spec_from_properties` reads back as an equal spec (options that are strings
    spelled like numbers or booleans excepted); `loading_timeout_s` is how long a worker may load."""
    values = property_values(spec, f"engines.{spec.engine}", model_id=str(spec.model_dir), python=spec.python or "")
    if spec.source_root is not None:  # an older checkout would take a key that it does not know for an option
        newer = {axis.key for axis in AXES if is_newer_default(axis.name, getattr(spec, axis.name))}
        values = {key: value for key, value in values.items() if key not in newer}
    if loading_timeout_s is not None:
        values["option.model_loading_timeout"] = str(max(1, math.ceil(loading_timeout_s)))
    return format_properties(values)


def property_values(
    setting: Setting, entry_point: str, *, model_id: str = "", python: str = "", extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Key -> text of `setting`, served by `entry_point`. A model_id or python that is '' is left out, as is an axis
    that is None; `extra` keys come last and win."""
    values = {"engine": "Python", "option.entryPoint": entry_point}
    if model_id:
        values["option.model_id"] = model_id
    for axis in AXES:
        value = getattr(setting, axis.name)
        if value is not None:
            values[axis.key] = _device(value) if axis.name == "device" else text_of(value)
    values["minWorkers"] = values["maxWorkers"]
    if python:
        values["option.pythonExecutable"] = python
    values |= {f"option.{name}": text_of(value) for name, value in sorted(setting.options.items())}
    return {**values, **(extra or {})}


def container_values(
    setting: Setting,
    entry_point: str,
    *,
    can_disable: bool = True,
    model_id: str = "",
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """`property_values` for DJL's containers, whose handlers batch as a server does, never by rolling; `can_disable`
    is whether this version has a key for that."""
    values = property_values(replace(setting, rolling_batch="disable"), entry_point, model_id=model_id)
    if not can_disable:
        del values["option.rolling_batch"]
    if setting.device == "cpu" and setting.tensor_parallel_degree == 1:
        del values["option.tensor_parallel_degree"]  # without GPUs early handlers count them and refuse any degree
    if setting.tensor_parallel_degree > 1 and entry_point == HF_ENTRY_POINT:
        values["option.device_map"] = "auto"
    values["option.model_loading_timeout"] = str(LOADING_TIMEOUT_S)
    return {**values, **(extra or {})}


def carried_values(setting: Setting, *, can_disable: bool = True) -> dict[str, str]:
    """`container_values` for a folder that carries our code, which reads dtype and options elsewhere."""
    values = container_values(replace(setting, options={}), "model.py", can_disable=can_disable)
    del values["option.dtype"]
    return values


def rolling_values(setting: Setting, rolling_batch: str, *, model_id: str = "") -> dict[str, str]:
    """Key -> text for an LMI container whose rolling batch is the measured engine itself, called `rolling_batch` there;
    the engine's own options go through to it."""
    options = {
        f"option.{name}": text_of(value)
        for name, value in sorted(setting.options.items())
        if name.islower() and name not in _NOT_IN_A_FILE  # environment variables are upper case
    }
    return {
        "engine": "Python",
        **({"option.model_id": model_id} if model_id else {}),
        "option.rolling_batch": rolling_batch,
        "option.dtype": setting.dtype,
        "option.tensor_parallel_degree": str(setting.tensor_parallel_degree),
        "option.max_rolling_batch_size": str(at_once(setting)),
        "option.model_loading_timeout": str(LOADING_TIMEOUT_S),
        **options,
    }


_NOT_IN_A_FILE = ("command", "image", "protocol", "max_num_seqs")


def at_once(setting: Setting) -> int:
    """How many requests an engine with its own rolling batch answers at once: an option's number, else
    `batch_size`, or DJL's default in a rolling batch."""
    named = setting.options.get("max_num_seqs", setting.options.get("max_rolling_batch_size"))
    if named is not None:
        return int(named)
    return setting.batch_size if setting.rolling_batch == "disable" else ServerSettings().max_rolling_batch_size


def text_of(value: object) -> str:
    """A value as a properties file spells it: 'true', not 'True'."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _device(device: str) -> str:
    """load_on_devices: -1 is the CPU, a number one GPU, * whatever there is."""
    return "-1" if device == "cpu" else device.partition(":")[2] or "*"
