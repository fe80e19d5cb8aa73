"""What every adapter checks before it loads: are its packages there, can it do what the specification asks."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import metadata
from importlib.util import find_spec

from engines.api import Availability, Capabilities, EngineSpec
from engines.environments.locate import can_install
from engines.errors import SpecInvalid

WITHOUT_EXTRA = ("deepspeed",)
"""It changes how transformers imports: only an environment of its own holds it."""


def package_availability(packages: Sequence[str], extra: str) -> Availability:
    """Whether every package can be imported, found without importing any; `extra` is the pip extra that brings them."""
    missing = [name for name in packages if find_spec(name) is None]
    versions = {name: _version(name) for name in packages if name not in missing}
    if missing:
        ways = [] if extra in WITHOUT_EXTRA else [f"pip install 'dynamometer[{extra}]'"]
        ways += [f"`dyno engine install {extra}` for an environment of its own"] if can_install(extra) else []
        reason = f"{', '.join(missing)} not installed: {', or '.join(ways)}"
        return Availability(is_available=False, reason=reason, versions=versions)
    return Availability(is_available=True, versions=versions)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def check_spec(spec: EngineSpec, capabilities: Capabilities) -> None:
    """Nothing, if an engine with `capabilities` can do `spec`; else raises SpecInvalid with the reason."""
    if spec.dtype not in capabilities.effective_dtypes:
        reason = capabilities.reasons.get(spec.dtype, "not supported")
        raise SpecInvalid(
            f"{spec.engine}: dtype {spec.dtype!r} refused: {reason}; it accepts "
            f"{', '.join(capabilities.effective_dtypes)}"
        )
    degree = spec.tensor_parallel_degree
    if not 1 <= degree <= capabilities.max_tensor_parallel_degree:
        reason = capabilities.reasons.get(
            "tensor_parallel_degree", f"at most {capabilities.max_tensor_parallel_degree} is supported"
        )
        raise SpecInvalid(f"{spec.engine}: tensor_parallel_degree {degree} refused: {reason}")
    if spec.device not in capabilities.devices:
        reason = f": {capabilities.reasons[spec.device]}" if spec.device in capabilities.reasons else ""
        raise SpecInvalid(
            f"{spec.engine}: device {spec.device!r} refused{reason}; it runs here on {', '.join(capabilities.devices)}"
        )
    if spec.rolling_batch != "disable" and not capabilities.has_rolling_batch:
        raise SpecInvalid(f"{spec.engine}: rolling_batch {spec.rolling_batch!r} refused; use 'disable'")
    if spec.threads is not None and spec.threads < 1:
        raise SpecInvalid(f"{spec.engine}: threads {spec.threads} refused; expected 1 or more, or null")
    for name in spec.options:
        if name not in capabilities.options:
            near = get_close_matches(name, capabilities.options, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(capabilities.options) or "none"
            raise SpecInvalid(f"{spec.engine}: unknown option {name!r}; known: {known}{hint}")


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
