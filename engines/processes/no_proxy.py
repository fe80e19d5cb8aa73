"""Keeps requests to localhost away from HTTP_PROXY (NO_PROXY), in this process and its children."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from urllib.request import Request

HOSTS = ("127.0.0.1", "localhost", "::1")


def keep_direct() -> None:
    """Have this process and its children reach loopback directly, in whatever library they do it: NO_PROXY names it.

    For the start of a program; nothing is changed where no proxy is set.
    """
    if not any(name.lower().endswith("_proxy") and value for name, value in os.environ.items()):
        return
    # Some read the one spelling first, some the other: each must say all that either said.
    values = {name: os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")}
    for name, other in (("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")):
        exempt = [part.strip() for part in (values[name] or values[other]).split(",") if part.strip()]
        if "*" not in exempt:
            os.environ[name] = ",".join(dict.fromkeys((*exempt, *HOSTS)))


def open_here(request: str | Request, timeout_s: float) -> Any:
    """`urllib.request.urlopen` of a server on this machine, past every proxy. Raises what that raises."""
    import urllib.request  # not above: it takes longer to import than `dyno --help` may

    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout_s)
