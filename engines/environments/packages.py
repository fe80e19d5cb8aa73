"""The check that the packages an engine needs can be imported here, and how to get them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec

from engines.api import Availability
from engines.environments.package_list import has_list

WITHOUT_EXTRA = ("deepspeed", "vllm", "transformers_serve")
"""The first changes how transformers imports, the second wants an older one: only a separate environment holds them;
for the third transformers itself has an extra."""


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
