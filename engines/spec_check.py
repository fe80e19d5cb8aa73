"""The check of a specification that every adapter makes before it loads: dtype, device, axes and kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engines.api import Capabilities, EngineSpec
from engines.errors import SpecInvalid
from engines.models.checkpoint.kind import ModelKind, model_kind, why_beyond
from engines.nearest import did_you_mean
from engines.setting import AXES, DTYPES, OptionValue


def check_spec(spec: EngineSpec, able: Capabilities) -> None:
    """Nothing, if an engine with these capabilities can do `spec`; else raises SpecInvalid with the reason."""
    has_config = (spec.model_dir / "config.json").is_file()  # a folder without one is refused elsewhere
    kind = model_kind(spec.model_dir) if able.model_kinds and has_config else None
    if kind is not None and (reason := why_not_model(spec.engine, kind, able)):
        raise SpecInvalid(f"{spec.engine}: {spec.model_dir} refused: {reason}")
    able = able_with(kind, able)
    for name, value in spec.axes().items():
        reason = why_not(spec.engine, name, value, able)
        if reason:
            raise SpecInvalid(f"{spec.engine}: {name} {value!r} refused: {reason}")


def why_not(engine: str, name: str, value: OptionValue | None, able: Capabilities) -> str:
    """Why `engine` with these capabilities cannot serve with axis `name` at `value`; '' when it can. The one judge of a
    setting, for a scenario's candidates as for a launch."""
    if name.startswith("options."):
        return _why_not_option(engine, name.removeprefix("options."), value, able)
    low = _LOWEST.get(name)
    if low is not None and isinstance(value, int) and value < low:
        return f"expected a whole number >= {low}"
    because = able.reasons.get(str(value), "")
    if name == "dtype" and value not in able.effective_dtypes:
        return f"{because or 'not supported'}; it accepts {', '.join(able.effective_dtypes)} here"
    if name == "tensor_parallel_degree" and isinstance(value, int) and value > able.max_tensor_parallel_degree:
        why = able.reasons.get("tensor_parallel_degree")
        return why or f"{engine} can split over at most {able.max_tensor_parallel_degree} here"
    if name == "workers" and able.max_workers is not None and isinstance(value, int) and value > able.max_workers:
        return able.reasons.get("workers") or f"{engine} runs at most {able.max_workers} here"
    most = able.max_batch_size
    if name == "batch_size" and most is not None and isinstance(value, int) and value > most:
        return able.reasons.get("batch_size") or f"{engine} takes at most {most} at once"
    if name == "device" and value not in able.devices:
        return because or f"this machine has no {value} that {engine} can use"
    if name == "rolling_batch" and value != "disable" and not able.has_rolling_batch:
        return able.reasons.get("rolling_batch") or f"{engine} has no rolling batch; use 'disable'"
    return ""


def able_with(kind: ModelKind | None, able: Capabilities) -> Capabilities:
    """The capabilities with a model of `kind`: without what only another kind gets, and weights in a GGUF file have the
    type that they have."""
    able = able if kind is None else _without_others(kind.name, able)
    if kind is None or not kind.gguf_weights or not able.reads_gguf:
        return able
    why = f"the GGUF file has {kind.gguf_weights} weights"
    _, _, others = able.effective_dtypes[kind.dtype].partition(", ")
    return replace(
        able,
        effective_dtypes={kind.dtype: ", ".join(filter(None, (f"{kind.gguf_weights} weights", others)))},
        reasons={**able.reasons, **{dtype: why for dtype in DTYPES if dtype != kind.dtype}},
    )


def _without_others(kind: str, able: Capabilities) -> Capabilities:
    lost = {name: other for name, other in able.only_for.items() if other != kind}
    axes = (*DTYPES, "rolling_batch")
    reasons = {name if name in axes else f"options.{name}": f"it is for {other} models" for name, other in lost.items()}
    return replace(
        able,
        effective_dtypes={name: runs_as for name, runs_as in able.effective_dtypes.items() if name not in lost},
        has_rolling_batch=able.has_rolling_batch and "rolling_batch" not in lost,
        options={name: text for name, text in able.options.items() if name not in lost},
        reasons={**reasons, **able.reasons},
    )


def why_not_model(engine: str, kind: ModelKind, able: Capabilities, tokens: int = 0) -> str:
    """Why `engine` with these capabilities cannot serve a model of `kind`, for requests of up to `tokens` tokens of
    prompt and answer; '' when it can."""
    if not able.model_kinds:
        return ""
    if reason := why_not_kind(engine, kind, able.model_kinds):
        return reason
    if kind.gguf_weights:
        return "" if able.reads_gguf else f"{engine} reads Hugging Face folders, no GGUF file; llamacpp serves one"
    because = next((able.reasons[word] for word in (kind.model_type, *kind.traits) if word in able.reasons), "")
    if because:
        return f"{kind.model_type}: {because}"
    if able.architectures and kind.model_type not in able.architectures:
        return f"{engine} does not serve {kind.model_type}; it serves {', '.join(able.architectures)}"
    return why_beyond(engine, kind, tokens, [word for word, of in able.leaves_out.items() if kind.model_type in of])


def why_not_kind(engine: str, kind: ModelKind, served: Sequence[str]) -> str:
    """Why an engine that serves these kinds of models does not serve `kind`; '' when it does."""
    if kind.name in served:
        return ""
    return f"{engine} serves {' and '.join(served)} models; the folder holds {kind.model_type}"


_LOWEST = {axis.name: axis.low for axis in AXES if not axis.is_word}


def _why_not_option(engine: str, name: str, value: OptionValue | None, able: Capabilities) -> str:
    if name in able.options:
        known = able.option_values.get(name)
        return known.why_not(value) if known is not None and value is not None else ""
    if (because := able.reasons.get(f"options.{name}")) is not None:
        return because
    if able.has_open_options:
        return ""
    hint = did_you_mean(name, able.options) or f"; known: {', '.join(able.options) or 'none'}"
    return f"{engine} has no such option{hint}"


def flag(spec: EngineSpec, name: str, default: bool) -> bool:
    """A true/false option; the words 'true' and 'false' from a properties file count. Raises SpecInvalid."""
    value = spec.options.get(name, default)
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise SpecInvalid(f"{spec.engine}: option {name} is {value!r}, expected true or false")


def choice(spec: EngineSpec, name: str, allowed: Sequence[str], default: str) -> str:
    """A word option. Raises SpecInvalid."""
    value = spec.options.get(name, default)
    if value not in allowed:
        raise SpecInvalid(f"{spec.engine}: option {name} is {value!r}, expected one of {', '.join(allowed)}")
    return str(value)


def whole_number(spec: EngineSpec, name: str, default: int) -> int:
    """A positive integer option; digits from a properties file count. Raises SpecInvalid."""
    value = spec.options.get(name, default)
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecInvalid(f"{spec.engine}: option {name} is {value!r}, expected a whole number, 1 or more")
    return value
