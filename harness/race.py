"""The evidence of a race that a trial lost: the comparison for which its load was ended early, as a record."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """The evidence that ended a trial early: in its first `requests` requests it was `worse_frac` worse in `metric`
    than trial `against` in the same ones, and at least `at_least_frac` but for an error probability of `level`; that is
    more than `margin_frac`, which `margin_why` explains ('' in older runs). Judged by `blocks` pairs of blocks of
    `block_requests` requests, at check number `check` of `checks`. `against_value` is what that trial measured in the
    end. `is_probe`: found by a probe, the first check, whose evidence is weaker (`level`)."""

    against: str
    metric: str
    against_value: float
    margin_frac: float
    level: float
    check: int
    checks: int
    requests: int
    blocks: int
    block_requests: int
    worse_frac: float
    at_least_frac: float
    margin_why: str = ""
    is_probe: bool = False
