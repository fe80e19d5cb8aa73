"""The arguments of SGLang's server, read from its wheel, which is not installed for it: `python -m ... WHEEL > FACTS`.

`pip download --no-deps sglang==VERSION` gets the wheel. What add_cli_args_from_dataclass makes of ServerArgs there is
repeated here from its source: a flag a field, by the field's type and its Arg(...). Names that are only deprecated
aliases are left out.
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engines.foreign_servers.starting.arguments import Argument

SOURCE = "sglang/srt/server_args.py"
_SCALARS = {"int": "int", "float": "float"}


def facts_of(wheel: Path) -> dict[str, Any]:
    """The version, and option -> argument."""
    with zipfile.ZipFile(wheel) as archive:
        source = archive.read(SOURCE).decode()
    return {"version": wheel.name.split("-")[1], "arguments": arguments_in(source)}


def arguments_in(source: str) -> dict[str, dict[str, Any]]:
    """Option -> argument of the class ServerArgs."""
    tree = ast.parse(source)
    lists = {name: value for name, value in _constants(tree)}
    (holder,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "ServerArgs")
    found: dict[str, dict[str, Any]] = {}
    for field in holder.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            argument = _argument(field.target.id, field.annotation, lists)
            if argument is not None:
                found[field.target.id] = asdict(argument)
    for name, argument in _by_hand(holder, lists):
        found.setdefault(name, asdict(argument))
    return dict(sorted(found.items()))


def _constants(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Lists of words that the module gives a name."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and (words := _words(node.value, {})):
            yield node.targets[0].id, words


def _words(node: ast.expr | None, lists: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The words of a list; () where they are computed."""
    if isinstance(node, ast.Name):
        return lists.get(node.id, ())
    try:
        found = ast.literal_eval(node) if node is not None else ()
    except ValueError:
        return ()
    return tuple(str(each) for each in found if each is not None) if isinstance(found, list | tuple) else ()


def _argument(name: str, annotation: ast.expr, lists: dict[str, tuple[str, ...]]) -> Argument | None:
    """What `A[type, ...]` becomes on the command line; None for a field without a word there."""
    if not (isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "A"):
        return None
    assert isinstance(annotation.slice, ast.Tuple)
    kind, *metadata = annotation.slice.elts
    called = next((each for each in metadata if isinstance(each, ast.Call) and ast.unparse(each.func) == "Arg"), None)
    has_help = any(isinstance(each, ast.Constant | ast.JoinedStr | ast.BinOp) for each in metadata)
    if called is None and not has_help:
        return None
    given = {word.arg: word.value for word in called.keywords} if called else {}
    if "no_cli" in given:
        return None
    flag = str(ast.literal_eval(given["cli_name"])) if "cli_name" in given else f"--{name.replace('_', '-')}"
    if isinstance(kind, ast.Subscript) and ast.unparse(kind.value) == "Optional":
        kind = kind.slice
    inner, choices = ast.unparse(kind), _words(given.get("choices"), lists)
    if "action" in given:
        is_flag = ast.unparse(given["action"]).endswith("BooleanOptionalAction")
        negative = f"--no-{flag.removeprefix('--')}" if is_flag else ""
        return Argument(flag=flag, kind="flag" if is_flag else "text", negative=negative)
    if isinstance(kind, ast.Subscript) and inner.startswith("Literal["):
        words = kind.slice if isinstance(kind.slice, ast.Tuple) else ast.Tuple(elts=[kind.slice])
        return Argument(flag=flag, kind="text", choices=choices or _words(words, {}))
    if inner.lower().startswith("list[") and "type_parser" not in given:
        return Argument(flag=flag, kind="list")
    if inner == "bool":
        return Argument(flag=flag, kind="switch")
    parsed = "text" if "type_parser" in given else _SCALARS.get(inner, "text")
    return Argument(flag=flag, kind=parsed, choices=choices)


def _by_hand(holder: ast.ClassDef, lists: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, Argument]]:
    """Those that add_cli_args adds by itself, but for deprecated ones, which have an action of their own, and --config:
    a file of arguments, which nothing here could check."""
    adding = next(node for node in holder.body if isinstance(node, ast.FunctionDef) and node.name == "add_cli_args")
    for node in ast.walk(adding):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "parser.add_argument":
            given = {word.arg: word.value for word in node.keywords}
            flag = str(ast.literal_eval(node.args[0]))
            if "action" not in given and flag != "--config":
                name = flag.removeprefix("--").replace("-", "_")
                yield name, Argument(flag=flag, kind="text", choices=_words(given.get("choices"), lists))


def text_of(facts: dict[str, Any]) -> str:
    """JSON with a line an argument, so that a new version's difference can be read."""
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in facts["arguments"].items())
    return f'{{"version": {json.dumps(facts["version"])}, "arguments": {{\n{rows}\n}}}}\n'


if __name__ == "__main__":
    sys.stdout.write(text_of(facts_of(Path(sys.argv[1]))))
