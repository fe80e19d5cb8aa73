"""The check of a specification that every adapter makes before it loads: packages, dtype, device and axes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec

from engines.api import Availability, Capabilities, EngineSpec
from engines.environments.package_list import has_list
from engines.errors import SpecInvalid
from engines.nearest import did_you_mean
from engines.setting import AXES, OptionValue

WITHOUT_EXTRA = ("deepspeed",)
"""It changes how transformers imports: only a separate environment holds it."""


def package_availability(packages: Sequence[str], extra: str) -> Availability:
    """Whether every package can be imported, found without importing any; `extra` is the pip extra that brings them."""
    missing = [name for name in packages if find_spec(name) is None]
    versions = {name: _version(name) for name in packages if name not in missing}
    if missing:
        ways = [] if extra in WITHOUT_EXTRA else [f"pip install 'dynamometer[{extra}]'"]
        ways += [f"`dyno engine install {extra}` for a separate environment"] if has_list(extra) else []
        reason = f"{', '.join(missing)} not installed: {', or '.join(ways)}"
        return Availability(is_available=False, reason=reason, versions=versions)
    return Availability(is_available=True, versions=versions)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def check_spec(spec: EngineSpec, able: Capabilities) -> None:
    """Nothing, if an engine with these capabilities can do `spec`; else raises SpecInvalid with the reason."""
    for name, value in spec.axes().items():
        reason = why_not(spec.engine, name, value, able)
        if reason:
            raise SpecInvalid(f"{spec.engine}: {name} {value!r} refused: {reason}")


def why_not(engine: str, name: str, value: OptionValue | None, able: Capabilities) -> str:
    """Why `engine` with these capabilities cannot serve with axis `name` at `value`; '' when it can. The one judge of a
    setting, for a scenario's candidates as for a launch."""
    if name.startswith("options."):
        return _why_not_option(engine, name.removeprefix("options."), able)
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
    if name == "device" and value not in able.devices:
        return because or f"this machine has no {value} that {engine} can use"
    if name == "rolling_batch" and value != "disable" and not able.has_rolling_batch:
        return f"{engine} has no rolling batch; use 'disable'"
    return ""


_LOWEST = {axis.name: axis.low for axis in AXES if not axis.is_word}


def _why_not_option(engine: str, name: str, able: Capabilities) -> str:
    if name in able.options:
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
