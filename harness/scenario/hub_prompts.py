"""Prompts of a data set of the Hugging Face hub in a scenario (`workload.prompts: {hub: ...}`), or of a file."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag

from harness.scenario.fields import AtLeastOne, Strict, Word, expected


def _dataset_id(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII):
        raise expected("the id of a data set, such as OWNER/NAME", name, "it stands on the data set's page")
    return name


class HubPrompts(Strict):
    """The first `rows` of a split."""

    hub: Annotated[Word, AfterValidator(_dataset_id), Field(description="id of a data set on the Hugging Face hub")]
    subset: Annotated[Word | None, Field(description="of a data set that has several")] = None
    split: Word = "train"
    column: Annotated[
        Word | None, Field(description="that holds prompts or conversations; null: by its columns, as of a file")
    ] = None
    revision: Annotated[Word | None, Field(description="branch, tag or commit; null: the newest")] = None
    rows: Annotated[AtLeastOne, Field(description="read, from the top of the split")] = 1000


def _kind(prompts: Any) -> str:
    return "data set" if isinstance(prompts, dict | HubPrompts) else "file"


Prompts = Annotated[
    Annotated[Word, Tag("file")] | Annotated[HubPrompts, Tag("data set")],
    Discriminator(_kind),
    Field(description="JSONL, JSON, CSV, Parquet or text file, relative to the scenario, or {hub: ...}; else bundled"),
]
