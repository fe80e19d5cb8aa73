"""A model's chat template: messages to the text of a prompt, as transformers renders it, in jinja's sandbox.

A template is a program that came with the weights. It sees plain values only, reads no file and imports nothing; what
it refuses (`raise_exception`) is the caller's bad input. The text names its own special tokens, so it is tokenized
without adding any (`Tokenizer.encode_rendered`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engines.errors import ModelInvalid, RequestInvalid
from engines.models.checkpoint.kind import json_entries, template_text

_SPECIAL_TOKENS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip


class ChatTemplate:
    """One compiled template. `special_tokens` are the variables that it may use (bos_token ...); `source` names the
    file in errors. Raises ModelInvalid for a text that is no template."""

    def __init__(self, text: str, special_tokens: Mapping[str, str], source: str) -> None:
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(text)
        except TemplateError as error:
            raise ModelInvalid(
                f"{source}: the chat template cannot be read ({error}); correct it, or send prompts without messages"
            ) from None

    @classmethod
    def load(cls, model_dir: Path) -> ChatTemplate:
        """The folder's template. Raises ModelInvalid where it has none, or none that can be read."""
        text = template_text(model_dir)
        if not text:
            raise ModelInvalid(
                f"{model_dir}: the model has no chat template; send prompts without messages, "
                "or add its chat_template.jinja"
            )
        return cls(text, special_tokens(model_dir), str(model_dir))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any] | None = None,
        *,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt's text. `messages` have 'role' and 'content'; `variables` are further ones of the template
        (enable_thinking ...). Raises RequestInvalid where the template refuses or fails."""
        given = {
            **self._special_tokens,
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **_plain(variables or {}),
            "messages": _plain(messages),
        }
        try:
            return self._template.render(given)
        except Exception as error:  # the boundary of one request: the template is a program of somebody else
            raise RequestInvalid(
                f"messages: the model's chat template refuses them: {error or type(error).__name__}"
            ) from None


def special_tokens(model_dir: Path) -> dict[str, str]:
    """Name -> text of the special tokens that the folder's tokenizer files declare."""
    found: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        entries = json_entries(model_dir / file)
        for name in _SPECIAL_TOKENS:
            token = entries.get(name)
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                found[name] = text
    return found


def _plain(value: Any) -> Any:
    """The value out of JSON's types only: an object's methods would be the template's to call."""
    return json.loads(json.dumps(value))


class _Generation(Extension):
    """`{% generation %}`, which marks what an assistant wrote; nothing here asks for the marks."""

    tags = {"generation"}  # noqa: RUF012  as jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The block's own content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """What transformers gives a template, so that published ones render the same."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _as_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return environment


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _as_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without HTML escapes, other than jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
