"""Reading a serving.properties into EngineSpec and ServerSettings, with DJL Serving's keys and defaults.

Keys without `option.` are the model server's own; a wrong one is refused with the nearest known key. `option.*` keys
that only another container's handler understands are listed in the notes; every other one is an engine option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.api import EngineSpec
from engines.errors import SpecInvalid
from engines.nearest import did_you_mean
from engines.serving_properties.java_text import PropertiesSyntaxError, parse_properties
from engines.setting import AXES, Axis, OptionValue, Setting

_AXIS_KEYS = tuple(axis.key for axis in AXES)
SERVER_KEYS = (
    "engine", *(key for key in _AXIS_KEYS if not key.startswith("option.")), "max_dynamic_batch_size", "minWorkers",
    "cpu.minWorkers", "cpu.maxWorkers", "gpu.minWorkers", "gpu.maxWorkers", "retry_threshold", "max_idle_time",
    "max_request_size",
)  # fmt: skip
OPTION_FIELDS = (
    *(key.removeprefix("option.") for key in _AXIS_KEYS if key.startswith("option.")), "entryPoint", "model_id",
    "predict_timeout", "model_loading_timeout", "max_rolling_batch_size", "pythonExecutable",
)  # fmt: skip
IGNORED_OPTIONS = frozenset(
    ("device_map", "task", "trust_remote_code", "revision", "low_cpu_mem_usage", "parallel_loading", "mpi_mode",
     "output_formatter", "async_mode", "pipeline_parallel_degree", "handler", "enable_streaming", "max_output_size",
     "disable_flash_attn", "waiting_steps")
)  # fmt: skip
"""DJL options that change nothing here: the handler features they switch are absent or always on."""
HONOURED = {"accelerate": frozenset(("device_map",))}
"""Engines for which some of them do."""

DTYPE_WORDS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float": "fp32"}
HANDLERS = {"djl_python.huggingface": "transformers"}
"""Entry points of the real containers that an engine of ours stands in for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What the front needs beside the EngineSpec. Defaults are DJL's except `retry_threshold`.

    DJL tolerates 0 crashes; here 3, so that a crashed worker is restarted. `min_workers` None means all workers are
    permanent. Times in seconds, sizes in bytes.
    """

    min_workers: int | None = None
    retry_threshold: int = 3
    max_idle_time_s: float = 60.0
    predict_timeout_s: float = 120.0
    model_loading_timeout_s: float = 240.0
    max_rolling_batch_size: int = 32
    max_request_size_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """One serving.properties, understood. `model_id` is the file's own value ('' when absent)."""

    spec: EngineSpec
    settings: ServerSettings
    model_id: str = ""
    notes: tuple[str, ...] = field(default=())


def spec_from_properties(text: str, model_dir: Path) -> EngineSpec:
    """The spec that serving.properties `text` asks for, over the model in `model_dir`. Raises SpecInvalid."""
    return read_serving(text, model_dir).spec


def read_text(path: Path) -> str:
    """The file's text, bytes taken as ISO 8859-1 as java.util.Properties takes a stream. Raises SpecInvalid."""
    try:
        return path.read_bytes().decode("latin-1")
    except OSError as error:
        raise SpecInvalid(f"{path}: cannot read it: {error.strerror}; name a serving.properties file") from error


def cpu(engine: str) -> str:
    """The device that `load_on_devices=*` means where nobody looks for a GPU."""
    return "cpu"


def read_serving(text: str, model_dir: Path, any_device: Callable[[str], str] = cpu) -> Serving:
    """Spec, settings and notes of one serving.properties; `any_device(engine)` is the device that `*` means there.

    Raises SpecInvalid naming the key and what is wrong.
    """
    try:
        values = parse_properties(text)
    except PropertiesSyntaxError as error:
        raise SpecInvalid(f"serving.properties: {error}") from None
    _check_server_keys(values)
    reader = _Values(values)
    notes: list[str] = []
    engine = _engine(reader)
    device = _device(reader.text("load_on_devices", "*"), engine, any_device)
    min_workers, workers = _workers(reader, device)
    given = {axis.name: reader.axis(axis) for axis in AXES if axis.name not in ("device", "workers", "dtype")}
    if "batch_size" not in values:
        given["batch_size"] = reader.integer("max_dynamic_batch_size", given["batch_size"], low=1)
    if given["batch_size"] > 1 and given["rolling_batch"] != "disable":
        rolling = given["rolling_batch"]
        notes.append(f"batch_size={given['batch_size']} turns option.rolling_batch={rolling} off, as in DJL Serving")
        given["rolling_batch"] = "disable"
    spec = EngineSpec(
        engine=engine,
        model_dir=model_dir,
        dtype=_dtype(reader, notes),
        device=device,
        workers=workers,
        options=_engine_options(values, engine, notes),
        python=reader.text("option.pythonExecutable", "") or None,
        **given,
    )
    settings = _settings(reader, None if min_workers == workers else min_workers)
    return Serving(spec=spec, settings=settings, model_id=reader.text("option.model_id", ""), notes=tuple(notes))


def _settings(reader: _Values, min_workers: int | None) -> ServerSettings:
    default = ServerSettings()
    return ServerSettings(
        min_workers=min_workers,
        retry_threshold=reader.integer("retry_threshold", default.retry_threshold, low=0),
        max_idle_time_s=float(reader.integer("max_idle_time", 60, low=0)),
        predict_timeout_s=float(reader.integer("option.predict_timeout", 120, low=1)),
        model_loading_timeout_s=float(reader.integer("option.model_loading_timeout", 240, low=1)),
        max_rolling_batch_size=reader.integer("option.max_rolling_batch_size", 32, low=1),
        max_request_size_bytes=reader.integer("max_request_size", default.max_request_size_bytes, low=1),
    )


class _Values:
    """Typed look-ups that name the key when a value is wrong."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if value != value.strip():
            raise SpecInvalid(
                f"serving.properties: {key}={value!r} has blanks around its value, and java.util.Properties keeps "
                "trailing ones; remove them"
            )
        return value

    def axis(self, axis: Axis) -> Any:
        """The value of an axis: a word, a whole number, or None where the engine decides."""
        if axis.is_word:
            return self.text(axis.key, str(axis.default))
        if axis.default is None and axis.key not in self.values:
            return None
        default = axis.default if axis.default_in_file is None else axis.default_in_file
        return self.integer(axis.key, int(default or 0), low=axis.low)

    def integer(self, key: str, default: int, low: int) -> int:
        text = self.text(key, str(default))
        try:
            value = int(text)
        except ValueError:
            raise SpecInvalid(f"serving.properties: {key}={text!r}: expected a whole number >= {low}") from None
        if value < low:
            raise SpecInvalid(f"serving.properties: {key}={value}: expected a whole number >= {low}")
        return value


def _check_server_keys(values: Mapping[str, str]) -> None:
    for key in values:
        if key.startswith("option.") or key in SERVER_KEYS:
            continue
        known = (*SERVER_KEYS, *(f"option.{name}" for name in OPTION_FIELDS))
        hint = did_you_mean(key, known) or did_you_mean(f"option.{key}", known, cutoff=1.0)
        raise SpecInvalid(f"serving.properties: unknown key {key!r}{hint}; server keys: {', '.join(SERVER_KEYS)}")


def _engine(reader: _Values) -> str:
    engine = reader.text("engine", "Python")
    if engine not in ("Python", "MPI"):
        raise SpecInvalid(
            f"serving.properties: engine={engine!r}: this server hosts engine=Python only; `dyno properties migrate` "
            "writes the file for another version"
        )
    entry = reader.text("option.entryPoint", "djl_python.huggingface")
    if entry.startswith("engines."):
        return entry.removeprefix("engines.")
    if entry in HANDLERS:
        return HANDLERS[entry]
    known = f"expected engines.<name> or one of {', '.join(HANDLERS)}"
    if entry.endswith(".py"):
        known += "; a script is for DJL's worker: `dyno recommend --container dynamometer-0.1` writes for this server"
    raise SpecInvalid(f"serving.properties: option.entryPoint={entry!r}: {known}")


def _dtype(reader: _Values, notes: list[str]) -> str:
    dtype = reader.text("option.dtype", "")
    if not dtype:
        notes.append(f"option.dtype is absent: {Setting().dtype} is served")
        return Setting().dtype
    return DTYPE_WORDS.get(dtype, dtype)


def _workers(reader: _Values, device: str) -> tuple[int, int]:
    """(minWorkers, maxWorkers); the device's own keys come first, as in DJL."""
    kind = "cpu" if device == "cpu" else "gpu"
    low_key = f"{kind}.minWorkers" if f"{kind}.minWorkers" in reader.values else "minWorkers"
    high_key = f"{kind}.maxWorkers" if f"{kind}.maxWorkers" in reader.values else "maxWorkers"
    min_workers = reader.integer(low_key, 1, low=1)
    max_workers = reader.integer(high_key, max(min_workers, 1), low=1)
    if max_workers < min_workers:
        raise SpecInvalid(f"serving.properties: {high_key}={max_workers} is below {low_key}={min_workers}")
    return min_workers, max_workers


def _device(text: str, engine: str, any_device: Callable[[str], str]) -> str:
    """'cpu', 'cuda' or 'cuda:<n>' from load_on_devices."""
    if text == "*":
        return any_device(engine)
    if text in ("-1", "cpu"):
        return "cpu"
    number = text.removeprefix("gpu")
    if number.isascii() and number.isdigit():
        return f"cuda:{number}"
    raise SpecInvalid(f"serving.properties: load_on_devices={text!r}: expected *, -1 (CPU) or one GPU number such as 0")


def _engine_options(values: Mapping[str, str], engine: str, notes: list[str]) -> dict[str, OptionValue]:
    ignored = IGNORED_OPTIONS - HONOURED.get(engine, frozenset())
    options: dict[str, OptionValue] = {}
    for key, value in values.items():
        name = key.removeprefix("option.")
        if name == key or name in OPTION_FIELDS:
            continue
        if name in ignored:
            notes.append(f"{key}={value} has no effect in this server")
        else:
            options[name] = _option_value(value)
    return options


def _option_value(text: str) -> OptionValue:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
