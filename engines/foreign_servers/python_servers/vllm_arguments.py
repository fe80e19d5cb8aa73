"""The arguments of an installed vLLM, read once from its own parser in a child process and kept: options are checked.

Run as a program in vLLM's environment it prints them as one line of JSON; importing vLLM takes it some seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from engines.cache_folder import cache_root
from engines.errors import Unavailable
from engines.foreign_servers.starting.arguments import Argument
from engines.processes.child_environment import child_environment

READ_TIMEOUT_S = 180.0
_FORMAT = 2
"""Part of the kept file's name: another number where what is kept changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What one installed version accepts: option name -> Argument, and the environment variables it reads."""

    arguments: Mapping[str, Argument]
    variables: tuple[str, ...]


def arguments_of(python: str, version: str) -> Arguments:
    """The arguments of the vLLM that `python` imports. Raises Unavailable."""
    return _kept(python, version, Path(python).stat().st_mtime_ns, str(cache_root()))


@lru_cache(maxsize=8)
def _kept(python: str, version: str, changed_ns: int, cache: str) -> Arguments:
    place = python.strip("/").replace("/", "-")[-120:]
    path = Path(cache) / "vllm" / f"arguments-{_FORMAT}-{version}-{changed_ns}-{place}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = _asked(python)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(found), encoding="utf-8")
        partial.replace(path)
    rows = {name: Argument.from_row(row) for name, row in found["arguments"].items()}
    return Arguments(arguments=rows, variables=tuple(found["variables"]))


def _asked(python: str) -> dict[str, dict[str, dict[str, str]]]:
    env = {**os.environ, **child_environment(python), **QUIET}
    argv = [python, "-m", "engines.foreign_servers.python_servers.vllm_arguments"]
    try:
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=READ_TIMEOUT_S, check=False)
        found: dict[str, dict[str, dict[str, str]]] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"vllm: {python} could not be asked for vLLM's arguments: {error}") from error
    except (IndexError, ValueError):
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no word")
        raise Unavailable(
            f"vllm: {python} could not be asked for vLLM's arguments: {last.strip()}; is it half installed? "
            "`dyno engine install vllm` makes ours whole, or name another python:"
        ) from None
    return found


QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Environment variables with which vLLM sends no usage statistics and asks no model hub."""


def read_here() -> dict[str, object]:
    """The arguments of the vLLM in this environment, JSON-able."""
    from vllm import envs
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    actions = (action for action in parser._actions if action.option_strings and action.dest != "help")
    groups = {group.title: [action.dest for action in group._group_actions] for group in parser._action_groups}
    bounds = {name: bound for title, names in groups.items() for name, bound in _bounds(title, names).items()}
    known = {action.dest: replace(as_argument(action), **bounds.get(action.dest, {})) for action in actions}
    return {
        "arguments": {name: asdict(argument) for name, argument in known.items()},
        "variables": sorted(envs.environment_variables),
    }


def _bounds(title: str | None, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Option -> the bounds that vLLM's own configuration class states, for the arguments that it groups under the
    class's name."""
    from vllm import config

    fields = getattr(getattr(config, title or "", None), "__pydantic_fields__", {})
    return {name: bounds_in(fields[name].metadata) for name in names if name in fields}


def bounds_in(constraints: Iterable[object]) -> dict[str, Any]:
    """The fields of OptionValues that pydantic's constraints of a field amount to."""
    found: dict[str, Any] = {}
    for each in constraints:
        for word, side in (("ge", "low"), ("gt", "low"), ("le", "high"), ("lt", "high")):
            if isinstance(bound := getattr(each, word, None), int | float):
                found |= {side: bound, f"is_{side}_out": word in ("gt", "lt")}
    return found


def as_argument(action: argparse.Action) -> Argument:
    """One action of a parser, as far as options need it."""
    longs = [word for word in action.option_strings if word.startswith("--")]
    choices = tuple(str(choice) for choice in action.choices or () if choice is not None)
    return Argument(
        flag=longs[0],
        kind=_kind(action),
        negative=next((word for word in longs if word.startswith("--no-")), ""),
        choices=() if action.nargs in ("+", "*") else choices,
    )


def _kind(action: argparse.Action) -> str:
    if isinstance(action, argparse.BooleanOptionalAction):
        return "flag"
    if action.nargs == 0:
        return "switch"
    if action.nargs in ("+", "*"):
        return "list"
    if isinstance(_read(action, "{}"), dict):  # a reader of JSON, which reads numbers too
        return "text"
    if isinstance(_read(action, "7"), int) and not isinstance(_read(action, "7.5"), float):
        return "int"
    return "float" if isinstance(_read(action, "7.5"), float) else "text"


def _read(action: argparse.Action, text: str) -> object:
    """What the argument's own reader makes of `text`; None where it refuses it."""
    try:
        return action.type(text) if callable(action.type) else text
    except Exception:  # readers of JSON and of dataclasses raise what they like
        return None


if __name__ == "__main__":
    print(json.dumps(read_here()), flush=True)
    sys.exit(0)
