"""llama.cpp's server in a Python process, from the wheel xllamacpp, until SIGTERM.

Its arguments are address, port and the model's name; standard input is JSON with CommonParams' attributes by name,
dotted where they lie deeper; {"enum": [class, member]} is one of the library's words.
"""

from __future__ import annotations

import json
import signal
import sys
from importlib import metadata
from typing import Any


def serve(address: str, port: str, name: str, parameters_json: str) -> None:
    """Listen until SIGTERM or SIGINT comes. Raises what the library raises when it cannot start."""
    import xllamacpp

    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))  # its threads inherit it; we wait below
    parameters = xllamacpp.CommonParams()
    parameters.hostnames, parameters.port, parameters.model_alias = [address], int(port), {name}
    for place, value in json.loads(parameters_json).items():
        *folders, last = place.split(".")
        holder: Any = parameters
        for folder in folders:
            holder = getattr(holder, folder)
        setattr(holder, last, _value(xllamacpp, value))
    server = xllamacpp.Server(parameters)
    signal.sigwait((signal.SIGTERM, signal.SIGINT))
    del server  # stops listening and ends its threads


def _value(library: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kind, member = value["enum"]
    return getattr(getattr(library, kind), member)


def describe() -> None:
    """Print the wheel's version, the names that its CommonParams has (those of CPU parameters dotted) and the members
    of its enums, as a line of JSON."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    deeper = [f"{name}.{each}" for name in ("cpuparams", "cpuparams_batch") for each in dir(getattr(parameters, name))]
    enums = [name for name in dir(xllamacpp) if name.startswith(("ggml_", "llama_"))]
    members = {name: [each for each in dir(getattr(xllamacpp, name)) if each.isupper()] for name in enums}
    names = [*dir(parameters), *deeper]
    print(json.dumps({"version": metadata.version("xllamacpp"), "names": names, "members": members}))


if __name__ == "__main__":
    if sys.argv[1] == "describe":
        describe()
    else:
        _, address, port, name = sys.argv
        serve(address, port, name, sys.stdin.read())
