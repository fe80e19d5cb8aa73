"""The containers (DJL, LMI, our server): their names, images, engines and values that come and go (keys.toml).

A container is written `0.36.0` or `0.36` (any image of that version), `0.27.0-deepspeed`, `0.36.0-lmi20`, a whole image
tag such as `0.21.0-fastertransformer5.3.0-cu117`, or `dynamometer-0.1` for our own server.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from engines.nearest import did_you_mean
from harness.errors import UsageError

Version = tuple[int, ...]

GENERAL_KINDS = ("deepspeed", "lmi")
"""The general-purpose images, older first: DeepSpeed's until 0.27.0, LMI's from 0.28.0."""

_KINDS = {"pytorch-inf2": "neuronx", "tensorrt-llm": "tensorrtllm", "pytorch-gpu": None, "cpu-full": None, "cpu": None}
"""How the images on Docker Hub are called, and the kind that each is; None: any image of that version."""
_NAME = re.compile(
    r"^(?:.*djl-(?:inference|serving):)?(?P<version>\d+\.\d+\.\d+)"
    rf"(?:-(?P<kind>deepspeed|fastertransformer|lmi|tensorrtllm|neuronx|{'|'.join(_KINDS)})(?P<backend>[\d.]*)"
    r"(?:-[A-Za-z0-9][\w.]*)*)?$"
)
_SHORT = re.compile(r"^\d+\.\d+(?=-|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A target. `kind` None means any image of that version; `backend` is the newest release where none was named.
    `is_plain` marks images of Docker Hub without vLLM or another backend."""

    name: str
    is_own: bool = False
    is_plain: bool = False
    version: Version = ()
    kind: str | None = None
    backend: Version = ()

    @property
    def release(self) -> Version:
        """The version, with the LMI release's number behind it where there is one: (0, 36, 0, 20)."""
        return self.version if self.lmi_release is None else (*self.version, self.lmi_release)

    @property
    def lmi_release(self) -> int | None:
        """The LMI release number (20 of lmi20); None where the image is not an LMI one."""
        if self.kind in (None, "lmi") and self.backend:
            return self.backend[0]
        return None


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
        return fits_image and is_between(container.release, self.since, self.until)


def parse_container(name: str) -> Container:
    """The container that `name` means. Raises UsageError with the known ones."""
    own = sorted(table()["dynamometer"])
    if name.startswith("dynamometer-"):
        if name.removeprefix("dynamometer-") in own:
            return Container(name=name, is_own=True)
        raise UsageError(_unknown(name))
    written, name = name, _SHORT.sub(r"\g<0>.0", name)
    match = _NAME.match(name)
    if match is None:
        raise UsageError(_unknown(written))
    version = parse_version(match["version"])
    wanted = parse_version(match["backend"].rstrip(".")) if match["backend"] else ()
    kind = _KINDS.get(match["kind"], match["kind"])
    rows = [
        (image_kind, parse_version(backend))
        for image_kind, images in table()["images"].items()
        for image_version, backend, _ in images
        if parse_version(image_version) == version and kind in (None, image_kind)
    ]
    fitting = [(k, b) for k, b in rows if b[: len(wanted)] == wanted]
    if not fitting:
        raise UsageError(_unknown(written))
    lmi = [backend for image_kind, backend in fitting if image_kind == "lmi"]
    backend = max(lmi) if lmi and kind in (None, "lmi") else max(b for _, b in fitting)
    is_lmi = kind == "lmi" or (kind is None and bool(lmi))
    is_plain = match["kind"] is not None and kind is None
    backend = backend if kind or is_lmi else ()
    return Container(name=name, is_plain=is_plain, version=version, kind=kind, backend=backend)


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
    rows = [r for r in table()["images"].get(kind, []) if parse_version(r[0]) == container.version]
    fitting = [r for r in rows if not container.backend or parse_version(r[1]) == container.backend] or rows
    if not fitting:
        return ""
    version, backend, suffix = fitting[-1]
    if suffix == "sdk":
        return f"{version}-{kind}-sdk{backend}"
    return f"{version}-{kind}{backend}-{suffix}" if suffix else f"{version}-{kind}{backend}"


def python_version(container: Container) -> Version:
    """The Python inside the general-purpose image, e.g. (3, 12); () where it is not known (0.21.0 and older)."""
    return _first_since("python", container)


def glibc_version(container: Container) -> Version:
    """The glibc inside the general-purpose image, e.g. (2, 39); () where it is not known."""
    return _first_since("glibc", container)


def vllm_in(container: Container) -> str:
    """The vLLM that an LMI image holds, AWS's own build of it; '' where that is not known."""
    return str(table()["vllm_in_lmi"].get(str(container.lmi_release), ""))


def container_names() -> tuple[str, ...]:
    """Every version and our own server, oldest first."""
    versions = {parse_version(row[0]) for rows in table()["images"].values() for row in rows}
    own = [f"dynamometer-{version}" for version in sorted(table()["dynamometer"])]
    return (*own, *(format_version(version) for version in sorted(versions)))


def newest_lmi() -> str:
    """The newest version of which there is an LMI image."""
    for version in reversed(container_names()):
        with suppress(UsageError):
            return parse_container(f"{version}-lmi").name
    raise LookupError("no LMI image is known")


def named_values(table: str) -> Mapping[str, NamedValue]:
    """The rows of `engines`, `rolling_batch` or `handlers`."""
    return _named(table)


def parse_version(text: str) -> Version:
    """'0.36.0' -> (0, 36, 0); '0.36.0-lmi19' -> (0, 36, 0, 19)."""
    return tuple(int(part) for part in text.replace("-lmi", ".").split(".") if part)


def format_version(version: Version) -> str:
    """(0, 36, 0) -> '0.36.0'; (0, 36, 0, 19) -> '0.36.0-lmi19'."""
    plain = ".".join(str(part) for part in version[:3])
    return f"{plain}-lmi{version[3]}" if len(version) > 3 else plain


def is_between(version: Version, since: Version, until: Version) -> bool:
    """Whether a version lies between two inclusive bounds; () is no bound, (0, 36, 0) means every release of it."""
    return (not since or version >= since) and (not until or version[: len(until)] <= until)


def _first_since(name: str, container: Container) -> Version:
    """The value of a table of first versions that holds for the container; () where none does."""
    rows = [(parse_version(since), parse_version(value)) for since, value in table()[name].items()]
    fitting = [value for since, value in sorted(rows) if container.version >= since]
    return fitting[-1] if fitting else ()


def _unknown(name: str) -> str:
    repository = re.sub(r"^.*/|:.*$", "", name)
    if image := table()["other_images"].get(repository):
        version = f" ({image['version']} in 2026-11)" if "version" in image else ""
        instead = f"write --format {image['form']}" if "form" in image else "no recommendation is for it yet"
        return f"--container: {image['name']}{version} has no serving.properties, it reads {image['reads']}; {instead}"
    known = container_names()
    hint = did_you_mean(name, known)
    return f"--container: unknown container {name!r}; known: {', '.join(known)} (also e.g. 0.36.0-lmi20){hint}"


@cache
def table() -> dict[str, Any]:
    return tomllib.loads(files("harness.properties").joinpath("keys.toml").read_text(encoding="utf-8"))


@cache
def read_by_version() -> dict[str, Any]:
    """The whole of read_by_version.toml."""
    return tomllib.loads(files("harness.properties").joinpath("read_by_version.toml").read_text(encoding="utf-8"))


@cache
def _named(name: str) -> dict[str, NamedValue]:
    modules = read_by_version()["modules"] if name == "handlers" else {}
    return {
        value: _named_value(value, {**_span(modules.get(value, [])), **row}) for value, row in table()[name].items()
    }


def _span(periods: list[dict[str, str]]) -> dict[str, str]:
    """The first `since` and the last `until` of a name's periods."""
    first, last = (periods[0], periods[-1]) if periods else ({}, {})
    found = {"since": first.get("since", ""), "until": last.get("until", "")}
    return {bound: version for bound, version in found.items() if version}


def _named_value(name: str, row: Mapping[str, Any]) -> NamedValue:
    return NamedValue(
        name=name,
        since=parse_version(row.get("since", "")),
        until=parse_version(row.get("until", "")),
        images=tuple(row.get("images", ())),
        retired=row.get("retired", ""),
        early=row.get("early", ""),
        handler=row.get("handler", ""),
    )
