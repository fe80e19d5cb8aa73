"""The containers (DJL, LMI, our server) and the serving.properties keys each version understands (keys.toml).

A container is written `0.36.0` (any image of that version), `0.27.0-deepspeed`, `0.36.0-lmi20`, a whole image tag such
as `0.21.0-fastertransformer5.3.0-cu117`, or `dynamometer-0.1` for our own server.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from engines.nearest import did_you_mean
from engines.setting import AXES, Axis
from harness.errors import UsageError

Version = tuple[int, ...]

GENERAL_KINDS = ("deepspeed", "lmi")
"""The general-purpose images, older first: DeepSpeed's until 0.27.0, LMI's from 0.28.0."""

_NAME = re.compile(
    r"^(?:.*djl-inference:)?(?P<version>\d+\.\d+\.\d+)"
    r"(?:-(?P<kind>deepspeed|fastertransformer|lmi|tensorrtllm|neuronx)(?P<backend>[\d.]*)(?:-(?:cu|sdk)[\d.]+)?)?$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A target. `kind` None means any image of that version; `backend` is the newest release where none was named."""

    name: str
    is_own: bool = False
    version: Version = ()
    kind: str | None = None
    backend: Version = ()

    @property
    def lmi_release(self) -> int | None:
        """The LMI release number (20 of lmi20); None where the image is not an LMI one."""
        if self.kind in (None, "lmi") and self.backend:
            return self.backend[0]
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRule:
    """One key as one handler reads it. `since` and `until` are inclusive versions; () means no bound."""

    key: str
    handler: str
    type: str
    since: Version = ()
    until: Version = ()
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    replacement: str = ""
    retired: str = ""
    is_never: bool = False
    deprecated_since: Version | None = None
    default: str = ""

    def is_in(self, version: Version) -> bool:
        """Whether a container of that version reads this key."""
        return not self.is_never and _is_between(version, self.since, self.until)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedValue:
    """A value that comes and goes with versions: an engine, a rolling batch type, a handler module. `retired` and
    `early` state what to do after `until` and before `since`."""

    name: str
    since: Version = ()
    until: Version = ()
    images: tuple[str, ...] = ()
    retired: str = ""
    early: str = ""
    handler: str = ""

    def is_in(self, container: Container) -> bool:
        """Whether that container accepts it."""
        fits_image = not self.images or container.kind is None or container.kind in self.images
        return fits_image and _is_between(container.version, self.since, self.until)


def parse_container(name: str) -> Container:
    """The container that `name` means. Raises UsageError with the known ones."""
    own = sorted(_table()["dynamometer"])
    if name.startswith("dynamometer-"):
        if name.removeprefix("dynamometer-") in own:
            return Container(name=name, is_own=True)
        raise UsageError(_unknown(name))
    match = _NAME.match(name)
    if match is None:
        raise UsageError(_unknown(name))
    version = parse_version(match["version"])
    wanted = parse_version(match["backend"].rstrip(".")) if match["backend"] else ()
    kind = match["kind"]
    rows = [
        (image_kind, parse_version(backend))
        for image_kind, images in _table()["images"].items()
        for image_version, backend, _ in images
        if parse_version(image_version) == version and kind in (None, image_kind)
    ]
    fitting = [(k, b) for k, b in rows if b[: len(wanted)] == wanted]
    if not fitting:
        raise UsageError(_unknown(name))
    lmi = [backend for image_kind, backend in fitting if image_kind == "lmi"]
    backend = max(lmi) if lmi and kind in (None, "lmi") else max(b for _, b in fitting)
    is_lmi = kind == "lmi" or (kind is None and bool(lmi))
    return Container(name=name, version=version, kind=kind, backend=backend if kind or is_lmi else ())


def general_kind(container: Container) -> str:
    """The image kind a file is written for when only a version was named: deepspeed until 0.27.0, then lmi."""
    if container.kind is not None:
        return container.kind
    return "deepspeed" if container.version <= (0, 27, 0) else "lmi"


def image_tag(container: Container) -> str:
    """The image tag, e.g. '0.36.0-lmi20.0.0-cu128'; '' for our own server."""
    if container.is_own:
        return ""
    kind = general_kind(container)
    rows = [r for r in _table()["images"].get(kind, []) if parse_version(r[0]) == container.version]
    fitting = [r for r in rows if not container.backend or parse_version(r[1]) == container.backend] or rows
    if not fitting:
        return ""
    version, backend, suffix = fitting[-1]
    if suffix == "sdk":
        return f"{version}-{kind}-sdk{backend}"
    return f"{version}-{kind}{backend}-{suffix}" if suffix else f"{version}-{kind}{backend}"


def python_version(container: Container) -> Version:
    """The Python inside the general-purpose image, e.g. (3, 12); () where it is not known (0.21.0 and older)."""
    rows = [(parse_version(since), parse_version(python)) for since, python in _table()["python"].items()]
    fitting = [python for since, python in sorted(rows) if container.version >= since]
    return fitting[-1] if fitting else ()


def container_names() -> tuple[str, ...]:
    """Every version and our own server, oldest first."""
    versions = {parse_version(row[0]) for rows in _table()["images"].values() for row in rows}
    own = [f"dynamometer-{version}" for version in sorted(_table()["dynamometer"])]
    return (*own, *(format_version(version) for version in sorted(versions)))


def key_rules(container: Container) -> dict[str, tuple[KeyRule, ...]]:
    """Full key (with 'option.') -> its rules, one per handler that reads it; other versions' rules included."""
    return _own_rules(container.name.removeprefix("dynamometer-")) if container.is_own else _djl_rules()


def named_values(table: str) -> Mapping[str, NamedValue]:
    """The rows of `engines`, `rolling_batch` or `handlers`."""
    return _named(table)


def parse_version(text: str) -> Version:
    """'0.36.0' -> (0, 36, 0)."""
    return tuple(int(part) for part in text.split(".") if part)


def format_version(version: Version) -> str:
    """(0, 36, 0) -> '0.36.0'."""
    return ".".join(str(part) for part in version)


def _is_between(version: Version, since: Version, until: Version) -> bool:
    return (not since or version >= since) and (not until or version <= until)


def _unknown(name: str) -> str:
    known = container_names()
    hint = did_you_mean(name, known)
    return f"--container: unknown container {name!r}; known: {', '.join(known)} (also e.g. 0.36.0-lmi20){hint}"


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("harness.properties").joinpath("keys.toml").read_text(encoding="utf-8"))


@cache
def _djl_rules() -> dict[str, tuple[KeyRule, ...]]:
    rules: dict[str, tuple[KeyRule, ...]] = {}
    for handler, keys in _table()["keys"].items():
        prefix = "" if handler == "server" else "option."
        for key, row in keys.items():
            rules[prefix + key] = (*rules.get(prefix + key, ()), _rule(prefix + key, handler, row))
    return rules


@cache
def _own_rules(version: str) -> dict[str, tuple[KeyRule, ...]]:
    tables = _table()["dynamometer"][version]
    axes = {axis.key: (_axis_rule(axis),) for axis in AXES}
    server = {key: (_rule(key, "server", row),) for key, row in tables["server"].items()}
    options: dict[str, tuple[KeyRule, ...]] = {}
    for handler in [name for name in tables if name != "server"]:
        for key, row in tables[handler].items():
            full = f"option.{key}"
            options[full] = (*options.get(full, ()), _rule(full, handler, row))
    return {**axes, **server, **options}


def _axis_rule(axis: Axis) -> KeyRule:
    handler = "option" if axis.key.startswith("option.") else "server"
    return _rule(axis.key, handler, {"type": "str"} if axis.is_word else {"type": "int", "min": axis.low})


def _rule(key: str, handler: str, row: Mapping[str, Any]) -> KeyRule:
    deprecated: Version | None = () if row.get("is_deprecated") else None
    if "is_deprecated_since" in row:
        deprecated = parse_version(row["is_deprecated_since"])
    return KeyRule(
        key=key,
        handler=handler,
        type=row["type"],
        since=parse_version(row.get("since", "")),
        until=parse_version(row.get("until", "")),
        low=row.get("min"),
        high=row.get("max"),
        choices=tuple(row.get("choices", ())),
        unit=row.get("unit", ""),
        replacement=row.get("replacement", ""),
        retired=row.get("retired", ""),
        is_never=row.get("never", False),
        deprecated_since=deprecated,
        default=row.get("default", ""),
    )


@cache
def _named(table: str) -> dict[str, NamedValue]:
    return {
        name: NamedValue(
            name=name,
            since=parse_version(row.get("since", "")),
            until=parse_version(row.get("until", "")),
            images=tuple(row.get("images", ())),
            retired=row.get("retired", ""),
            early=row.get("early", ""),
            handler=row.get("handler", ""),
        )
        for name, row in _table()[table].items()
    }
