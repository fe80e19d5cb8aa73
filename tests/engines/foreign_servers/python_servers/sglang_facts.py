"""The arguments of SGLang's server, read from its wheel, which is not installed for it: `python -m ... WHEEL > FACTS`.

`pip download --no-deps sglang==VERSION` gets the wheel. What add_cli_args_from_dataclass makes of ServerArgs there is
repeated here from its source: a flag a field, by the field's type and its Arg(...). Names that are only deprecated
aliases are left out. Ranges are those that its checks refuse a number outside of, whatever else is set.
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
_SELF = ("self", "self._resolved()")
_BOUNDS = {ast.Gt: ("low", True), ast.GtE: ("low", False), ast.Lt: ("high", True), ast.LtE: ("high", False)}
_OPPOSITE: dict[type, type] = {ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Lt: ast.GtE, ast.LtE: ast.Gt}
_TURNED: dict[type, type] = {ast.Gt: ast.Lt, ast.GtE: ast.LtE, ast.Lt: ast.Gt, ast.LtE: ast.GtE}


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
    for name, bounds in _bounds(holder):
        if found.get(name, {}).get("kind") in _SCALARS:
            found[name] |= bounds
    return dict(sorted(found.items()))


def _bounds(holder: ast.ClassDef) -> Iterator[tuple[str, dict[str, Any]]]:
    """(option, bounds as in OptionValues) of each check that a method always comes to."""
    for method in holder.body:
        for statement in method.body if isinstance(method, ast.FunctionDef) else ():
            yield from _checked(statement)
            if isinstance(statement, ast.If) and any(isinstance(each, ast.Return) for each in ast.walk(statement)):
                break  # what follows depends on other options


def _checked(statement: ast.stmt) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(statement, ast.Assert):
        yield from _compared(statement.test, holds=True)
    elif isinstance(statement, ast.If) and isinstance(statement.body[0], ast.Raise):
        yield from _compared(statement.test, holds=False)
    elif isinstance(statement, ast.If) and (name := _given(statement.test)):
        for inner in statement.body:
            yield from (each for each in _checked(inner) if each[0] == name)


def _given(test: ast.expr) -> str:
    """NAME where the test is 'self.NAME is not None'; else ''."""
    is_asked = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot)
    return _option(test.left) if isinstance(test, ast.Compare) and is_asked else ""


def _option(node: ast.expr) -> str:
    """NAME of self.NAME; '' for anything else."""
    return node.attr if isinstance(node, ast.Attribute) and ast.unparse(node.value) in _SELF else ""


def _compared(test: ast.expr, *, holds: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The bounds that an option has where `test` holds, or does not."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield from _compared(test.operand, holds=not holds)
    elif isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or if holds else ast.And):
        left = [each for each in test.values if "None" not in ast.unparse(each)]
        if len(left) == 1:
            yield from _compared(left[0], holds=holds)
    elif isinstance(test, ast.Compare) and (holds or len(test.ops) == 1):
        sides = [test.left, *test.comparators]
        for left, sign, right in zip(sides, test.ops, sides[1:], strict=False):
            name, number = _option(left), right
            if not name:  # 0 < self.NAME reads self.NAME > 0
                name, number, sign = _option(right), left, _TURNED.get(type(sign), ast.Is)()
            kind = type(sign) if holds else _OPPOSITE.get(type(sign), ast.Is)
            if name and kind in _BOUNDS and isinstance(number, ast.Constant) and isinstance(number.value, int | float):
                side, is_out = _BOUNDS[kind]
                yield name, {side: number.value, f"is_{side}_out": is_out}


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
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(_short(row))}" for name, row in facts["arguments"].items())
    return f'{{"version": {json.dumps(facts["version"])}, "arguments": {{\n{rows}\n}}}}\n'


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """The row without bounds that it has not."""
    always = ("flag", "kind", "negative", "choices")
    others = {
        name: value for name, value in row.items() if name not in always and value is not None and value is not False
    }
    return {name: row[name] for name in always} | others


if __name__ == "__main__":
    sys.stdout.write(text_of(facts_of(Path(sys.argv[1]))))
