"""The templates of the report page, and the one place that decides what text from a run may become in them."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and the ones that turn the direction of text: neither may rearrange what a reader sees."""


def render(template: str, **values: object) -> Markup:
    """The template of that name filled in: values are escaped unless they are Markup, a missing one is an error."""
    return Markup(_environment().get_template(template).render(values))  # noqa: S704 - the template has escaped it


def verbatim(own: str) -> Markup:
    """A script or style sheet of ours, written as it is. Never for text from a run."""
    return Markup(own)  # noqa: S704


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


def _plain(value: object) -> object:
    """Every value before it is escaped: without terminal colours and control characters."""
    if isinstance(value, Markup):
        return value
    text = value if isinstance(value, str) else str(value)
    if text.isprintable():
        return text
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _ANSI.sub("", text.replace("\r\n", "\n")))
