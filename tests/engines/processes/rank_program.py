"""A following rank for the tests of rank_group: it writes down what it is told, and dies when told to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from engines.processes.rank_group import Message, follow_rank_0


def follow(rank: int, messages: Iterator[Message]) -> None:
    for message in messages:
        if message.get("die"):
            os._exit(9)
        with Path(os.environ["RANK_LOG"], f"{rank}.log").open("a") as log:
            log.write(message["text"] + "\n")


if __name__ == "__main__":
    follow_rank_0(follow)
