"""Plain English where people read: no word of a private dialect in docstrings, help texts and documents."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from harness.cli.main import dyno
from tests.parsed import parsed

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "ARCHITECTURE.md",
    "engines/README.md",
    "harness/README.md",
    "harness/gate/README.md",
    "scenarios/README.md",
    "kernels/README.md",
)
MODULES = sorted(path for root in ("engines", "harness") for path in (ROOT / root).rglob("*.py"))

WORDS = {
    r"told|tells?": "report, send, show, distinguish",
    r"said|says?": "state, report, print, explain; a file and a program do not speak",
    r"hears?|heard": "receive",
    r"spoken|speaks?": "use, send, implement",
    r"(?:has|have) them not": "cannot be measured, is missing",
    r"in vain": "without effect",
    r"mend(?:s|ed|ing)?": "repair, correct",
    r"lies? (?:in|at|under|beside|where|there|here)": "is in, is at",
    r"of (?:its|their|one's) own": "separate; its own ...",
    r"(?:goes|go|went) on": "continues",
    r"(?:the|a|each|every|last|missed) beats?": "heartbeat",
    r"let (?:the )?\w+ go": "release",
    r"in hand": "available, under way",
    r"bye|good-bye": "close",
}
"""Word -> plainer ones. Excluded, because ordinary English needs them:

* 'lies above, below, beyond, between' an interval or limit: the usual words of statistics;
* 'beats' and 'beat' for being better, which readers of benchmarks expect: only the noun for a heartbeat is listed;
* 'cannot tell' and 'cannot-tell', a verdict of the gate that users see and scripts read;
* 'has not' and 'have not' before a participle ('has not been built'), unlike 'has them not';
* comments and names: a reader meets those with the code in view."""

ALLOWED = re.compile(r"\bcannot[ -]tell\b|\bcould not tell\b", re.I)
DIALECT = re.compile("|".join(rf"(?:\b(?:{word})\b)" for word in WORDS), re.I)
CLAUSE = re.compile(r"(?:What|How|Whether|Which|Where|Why|Who|Whose|When|If|Does|Is|May)\b")
PRONOUN = re.compile(r"(?:It|They|Them|He|She|This|These|Those|One (?:is|may|must|can|has|of|that|which))\b")
"""A first line cannot begin with a word that only an earlier sentence could explain."""


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Each sentence of `text` with the number of lines before it; code in fences is left out."""
    text = re.sub(r"```.*?```", lambda fence: "\n" * fence[0].count("\n"), text, flags=re.S)
    start = 0
    for end in re.finditer(r"(?<=[.;:!?|])\s+|\n\s*\n|\n(?=[*|-] )|\Z", text):
        sentence = text[start : end.start()]
        yield text[:start].count("\n"), " ".join(sentence.split())
        start = end.end()


def dialect(text: str) -> list[tuple[int, str, str]]:
    """(lines before, word, sentence) of each listed word in `text`."""
    return [
        (line, found[0], sentence)
        for line, sentence in sentences(text)
        for found in DIALECT.finditer(ALLOWED.sub("", sentence))
    ]


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings of the module, its classes, functions and constants, and the descriptions of its fields."""
    for node in ast.walk(parsed(path.read_text(encoding="utf-8"))):
        body = getattr(node, "body", [])
        for statement in body if isinstance(body, list) else []:
            match statement:
                case ast.Expr(value=ast.Constant(value=str() as text)):
                    yield statement.lineno, text
        match node:
            case ast.keyword(arg="description", value=ast.Constant(value=str() as text)):
                yield node.value.lineno, text


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """Errors, notes and other texts that the code prints: every string of two words and more, values as '_'."""
    tree = parsed(path.read_text(encoding="utf-8"))
    known = {start for start, _ in docstrings(path)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr():
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "_" for part in node.values)
                yield node.lineno, text
            case ast.Constant(value=str() as text) if (
                " " in text and id(node) not in parts and node.lineno not in known
            ):
                yield node.lineno, text


def help_texts(command: click.Command, name: str = "dyno") -> Iterator[tuple[str, str]]:
    """(where, text) of everything that `--help` prints for `command` and the commands below it."""
    for text in (command.help, command.short_help, command.epilog):
        yield name, text or ""
    for parameter in command.params:
        yield f"{name} {'/'.join(parameter.opts)}", getattr(parameter, "help", None) or ""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for verb in command.list_commands(context):
            below = command.get_command(context, verb)
            assert below is not None
            yield from help_texts(below, f"{name} {verb}")


def refused(found: list[str]) -> str:
    return f"{len(found)} sentences use words listed in {Path(__file__).name}:\n" + "\n".join(found)


def test_docstrings_are_in_plain_english() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{start + line}: {word!r}: {sentence}"
        for path in MODULES
        for start, text in docstrings(path)
        for line, word, sentence in dialect(text)
    ]
    assert not found, refused(found)


def test_messages_are_in_plain_english() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{start}: {word!r}: {sentence}"
        for path in MODULES
        for start, text in messages(path)
        for _, word, sentence in dialect(text)
    ]
    assert not found, refused(found)


def test_help_texts_are_in_plain_english() -> None:
    texts = list(help_texts(dyno))
    assert len(texts) > 150
    found = [f"{where}: {word!r}: {sentence}" for where, text in texts for _, word, sentence in dialect(text)]
    assert not found, refused(found)


def test_every_option_has_a_help_text_that_reads_alone() -> None:
    alone = re.compile(r"[A-Z0-9$].*[.)\]]$", re.S)
    options = [(where, text) for where, text in help_texts(dyno) if " --" in where and not where.endswith("--help")]
    found = [f"{where}: {text!r}" for where, text in options if not alone.match(text.split("  [")[0])]
    found += [f"{where}: {text!r}" for where, text in options if PRONOUN.match(text) or CLAUSE.match(text)]
    assert not found, (
        "begin each help text with a capital, end it with a full stop, name what it is about:\n" + "\n".join(found)
    )


def test_documents_are_in_plain_english() -> None:
    found = [
        f"{name}:{line + 1}: {word!r}: {sentence}"
        for name in DOCUMENTS
        for line, word, sentence in dialect((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert not found, refused(found)


def test_the_first_line_of_a_module_is_a_sentence_or_a_noun_phrase() -> None:
    found = []
    for path in MODULES:
        text = ast.get_docstring(parsed(path.read_text(encoding="utf-8"))) or ""
        first = text.partition("\n")[0]
        if CLAUSE.match(first) or PRONOUN.match(first) or not first.endswith("."):
            found.append(f"{path.relative_to(ROOT)}:1: {first!r}")
    assert not found, "a stranger reads this line alone; begin with a noun or a verb, and end it:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The worker is told its number.\n\nThe note says so; it goes on.", ["told", "says", "goes on"]),
        ("A process of its own.\nIts log lies beside it.", ["of its own", "lies beside"]),
        ("The gate cannot tell.  A bound lies above the limit, t5 beats it, the library has not been built.", []),
        ("```\nsays\n```", []),
    ],
)
def test_listed_words_are_found_and_ordinary_english_is_not(text: str, words: list[str]) -> None:
    assert [word for _, word, _ in dialect(text)] == words
