"""`Setting` and `AXES`: the axes that a candidate varies (dtype, batch size, workers ...), stated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

OptionValue = bool | int | float | str

DTYPES = ("fp32", "bf16", "fp16", "int8", "int4")
"""The dtypes a scenario may name, DJL's words. An engine may add its own (`w8a8`), listed in its Capabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value of every axis, in DJL Serving's words; a candidate and the start of an engine are Settings with more.

    Field names, types and defaults stand here only; the search enumerates the axes in this order. A whole number, a
    word, or None where the engine decides (`threads`: cores // workers, at least 1). `options` are the engine's own.
    """

    dtype: str = "fp32"
    tensor_parallel_degree: int = 1
    workers: int = 1
    batch_size: int = 1
    max_batch_delay_ms: int = 0
    job_queue_size: int = 1000
    rolling_batch: str = "disable"
    threads: int | None = None
    device: str = "cpu"
    options: Mapping[str, OptionValue] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """Field name -> value of this Setting alone, to make another kind of Setting with."""
        return {each.name: getattr(self, each.name) for each in fields(Setting)}

    def axes(self) -> dict[str, OptionValue | None]:
        """Axis name -> value, options as 'options.<name>'."""
        values = self.values()
        del values["options"]
        return {**values, **{f"options.{name}": value for name, value in sorted(self.options.items())}}


FIRST_AXES = (
    "dtype", "tensor_parallel_degree", "workers", "batch_size", "max_batch_delay_ms", "job_queue_size", "rolling_batch",
    "threads", "device",
)  # fmt: skip
"""The axes that every stored run and every older checkout knows."""


_NEWER = {name: default for name, default in Setting().axes().items() if name not in FIRST_AXES}


def is_newer_default(name: str, value: object) -> bool:
    """Whether this is an axis younger than FIRST_AXES, at its default: then it is part of no id and no digest, which
    stay what they were before it was there, and an older checkout's server is not asked for it."""
    return name in _NEWER and value == _NEWER[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What is true of one field of `Setting` wherever it is read, written or shown.

    `key` is its key in serving.properties. `title` heads it in tables and figures. `label` is its part of a candidate's
    short name ({} is the value, {s} makes a plural), left out at the default unless `is_always_named`.
    A whole number is at least `low`; a word is one of `words`, to which an engine may add its own where `is_open`.
    `help` is for whoever writes a scenario. `default_in_file` is what a file without the key means to DJL Serving,
    given where that is not our default. `memory` is what a larger value takes in memory. `is_scheduling`: it decides
    when a request is computed and beside which others, not what is answered, unless Capabilities.changes_answers lists
    it; every other axis may change the answers.
    """

    name: str
    key: str
    title: str
    label: str
    is_always_named: bool = False
    low: int = 1
    words: tuple[str, ...] = ()
    is_open: bool = False
    help: str = ""
    default_in_file: int | None = None
    memory: Literal["more", "less", "none", "unknown"] = "unknown"
    is_scheduling: bool = False

    @property
    def default(self) -> OptionValue | None:
        """The value where nobody names one."""
        value: OptionValue | None = getattr(Setting(), self.name)
        return value

    @property
    def is_word(self) -> bool:
        """Whether its values are words; else they are whole numbers."""
        return isinstance(self.default, str)

    def label_of(self, setting: Setting) -> str:
        """'2 workers'; '' where it goes without saying."""
        value = getattr(setting, self.name)
        is_shown = self.is_always_named or value != self.default
        return self.label.format(value, s="" if value == 1 else "s") if is_shown else ""


AXES = (
    Axis(name="dtype", key="option.dtype", title="dtype", label="{}", is_always_named=True, words=DTYPES, is_open=True),
    Axis(
        name="batch_size",
        key="batch_size",
        title="batch size",
        label="batch {}",
        is_always_named=True,
        memory="more",
        is_scheduling=True,
    ),
    Axis(
        name="workers",
        key="maxWorkers",
        title="workers",
        label="{} worker{s}",
        is_always_named=True,
        memory="more",
        is_scheduling=True,
    ),
    Axis(
        name="tensor_parallel_degree",
        key="option.tensor_parallel_degree",
        title="tensor parallel",
        label="tensor parallel {}",
        memory="less",
    ),
    Axis(
        name="max_batch_delay_ms",
        key="max_batch_delay",
        title="batch delay (ms)",
        label="delay {} ms",
        low=0,
        default_in_file=100,  # DJL Serving's; ours is 0, so that a scenario that names no delay waits for nobody
        memory="none",
        is_scheduling=True,
    ),
    Axis(
        name="threads",
        key="option.threads",
        title="threads",
        label="{} thread{s}",
        memory="none",
        help="compute threads per worker; null: cores // workers",
    ),
    Axis(
        name="rolling_batch",
        key="option.rolling_batch",
        title="rolling batch",
        label="rolling batch {}",
        words=("disable", "auto", "scheduler", "lmi-dist", "vllm", "trtllm"),
    ),
    Axis(
        name="job_queue_size",
        key="job_queue_size",
        title="queue size",
        label="queue {}",
        memory="none",
        is_scheduling=True,
    ),
    Axis(name="device", key="load_on_devices", title="device", label="{}", words=("cpu", "cuda", "neuron")),
)
"""Every axis, in the order in which a reader sees them."""
