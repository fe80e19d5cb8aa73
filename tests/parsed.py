"""Parsed sources for the tests that read the project's code: each text is parsed once in a process."""

from __future__ import annotations

import ast
from functools import cache


@cache
def parsed(source: str) -> ast.Module:
    """The syntax tree of `source`, which nobody may change."""
    return ast.parse(source)
