"""The memory that a server must have room for before it serves: a trait of an engine with its own server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastMemory:
    """What a server must have room for before it serves, in the words of its options.

    `share_option` is the part of each GPU that it may take, all of it without the option. `context_option` holds the
    tokens for whose keys and values it must have room, else as many as the model has positions and at most
    `usual_context`; '': those of the longest request. `rows_option`: it makes that room for so many requests, for
    `usual_rows` in a rolling batch without it; '': for one. `type_options` name the type of keys and values, one option
    for both or one each. With one of `smaller_by` weights are smaller or elsewhere; with one of `unknown_by` nothing is
    known, neither of weights nor of keys and values nor of the share. `is_mapped`: weights are pages of a file, and
    what no GPU has room for is in the host's memory.
    """

    type_options: tuple[str, ...]
    share_option: str = ""
    context_option: str = ""
    usual_context: int = 0
    rows_option: str = ""
    usual_rows: int = 1
    smaller_by: tuple[str, ...] = ()
    unknown_by: tuple[str, ...] = ()
    is_mapped: bool = False
