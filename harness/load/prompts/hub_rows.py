"""The process that reads rows of a data set of the hub with the library `datasets`, and writes them as JSON lines.

`python -m harness.load.prompts.hub_rows` gets its question on standard input and answers in one line of JSON; what
the library imports, the threads that it starts and the time that it takes end with this process. The library runs no
code of a data set (from its version 4 on).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from harness.load.prompts.formats import FORMATS

CONTACT_S = 10.0
"""Until the hub counts as out of reach."""
LONGEST_TEXT = 300
"""Characters of a library's own message that are shown."""
_THEIR_WORDS = (ValueError, KeyError, FileNotFoundError, RuntimeError)
"""Raised by `datasets` for a subset, a split, a format or a file that is not there, whose names it lists."""


class Wrong(Exception):
    """The question is wrong in its field `field`."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


class OutOfReach(Exception):
    """The library or the hub cannot answer here."""


def main() -> None:
    """Writes the rows of {"asked": ..., "path": ...} to the path, and prints {"revision"}, {"wrong", "text"} or
    {"unavailable"}."""
    question = json.load(sys.stdin)
    os.chdir(os.path.dirname(question["path"]))  # the library prefers a folder of that name to the hub's data set
    try:
        answer = {"revision": _write(question["asked"], question["path"])}
    except Wrong as error:
        answer = {"wrong": error.field, "text": str(error)}
    except OutOfReach as error:
        answer = {"unavailable": str(error)}
    print(json.dumps(answer), flush=True)
    os._exit(0)  # threads of the library that still read would keep this process


def _write(asked: Mapping[str, Any], path: str) -> str:
    """The commit whose rows were written."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise OutOfReach(f"needs the package datasets ({_line(error)}): pip install 'dynamometer[hub]'") from error
    revision = _commit(asked["hub"], asked["revision"])
    try:
        rows = load_dataset(asked["hub"], asked["subset"], split=asked["split"], revision=revision, streaming=True)
        with open(path, "w", encoding="ascii") as file:
            for row in _chosen(islice(rows, asked["rows"]), asked["column"]):
                file.write(json.dumps(row, default=str) + "\n")
    except Wrong:
        raise
    except _THEIR_WORDS as error:
        raise Wrong("hub", f"the data set cannot be read so: {_line(error)}") from error
    except Exception as error:  # it raises what its HTTP and file libraries raise, which vary by version
        raise OutOfReach(f"could not be read ({type(error).__name__}: {_line(error)}); try again") from error
    return revision


def _commit(name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return str(HfApi().dataset_info(name, revision=revision, timeout=CONTACT_S).sha)
    except RevisionNotFoundError as error:
        raise Wrong("revision", f"expected a branch, tag or commit of {name}, got {revision!r}") from error
    except GatedRepoError as error:
        raise Wrong("hub", f"{name} is gated: accept its terms on its page, and set HF_TOKEN") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        text = f"expected a data set of the hub, got {name!r}; check the spelling, or set HF_TOKEN if it is private"
        raise Wrong("hub", text) from error
    except Exception as error:  # as above
        raise OutOfReach(
            f"the hub could not be reached ({type(error).__name__}: {_line(error)}); check the network, or name a file"
        ) from error


def _chosen(rows: Iterable[Mapping[str, Any]], column: str | None) -> Iterator[dict[str, Any]]:
    """Each row's columns that a prompts file may have, or `column` alone under the name that a file has for it."""
    known = {name: None for each in FORMATS for name in each.uses}
    for number, row in enumerate(rows):
        if column is None and number == 0 and not any(each.key in row for each in FORMATS):
            keys = ", ".join(each.key for each in FORMATS)
            raise Wrong("hub", f"expected a column of prompts ({keys}), got {_listed(row)}; name it by column")
        if column is not None and column not in row:
            raise Wrong("column", f"expected one of {_listed(row)}, got {column!r}")
        picked = {name: row[name] for name in known if name in row} if column is None else _named(row[column])
        yield {name: value for name, value in picked.items() if value is not None}


def _named(value: Any) -> dict[str, Any]:
    """The value of a column as a row of a prompts file: a text, the messages of a conversation, or its questions."""
    if not isinstance(value, list):
        return {"prompt": value}
    if value and isinstance(value[0], str):
        return {"turns": value}
    is_sharegpt = bool(value) and isinstance(value[0], dict) and "from" in value[0]
    return {"conversations" if is_sharegpt else "messages": value}


def _listed(row: Mapping[str, Any]) -> str:
    return ", ".join(list(row)[:12])[:LONGEST_TEXT]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:LONGEST_TEXT] or type(error).__name__


if __name__ == "__main__":
    main()
