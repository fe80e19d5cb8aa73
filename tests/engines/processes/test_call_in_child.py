"""A function run in its own process: its errors arrive, its memory does not, and it cannot outlive us."""

from __future__ import annotations

import pytest

from engines.errors import ModelInvalid, Unavailable
from engines.processes.call_in_child import answer_call, call_in_child

pytestmark = pytest.mark.heavy

HERE = "tests.engines.processes.test_call_in_child"


def refuse(message: str) -> None:
    raise Unavailable(message)


def crash(message: str) -> None:
    raise ZeroDivisionError(message)


def accept(message: str) -> None:
    assert message == "fine"


def test_success_returns() -> None:
    call_in_child(HERE, "accept", ["fine"])


def test_an_engine_error_arrives_as_itself() -> None:
    with pytest.raises(Unavailable, match=r"^no such thing, 'quoted'$"):
        call_in_child(HERE, "refuse", ["no such thing, 'quoted'"])


def test_any_other_end_tells_its_last_lines() -> None:
    with pytest.raises(ModelInvalid, match=r"ended with code 1: .*ZeroDivisionError: by nothing"):
        call_in_child(HERE, "crash", ["by nothing"])


if __name__ == "__main__":
    answer_call(accept, refuse, crash)
