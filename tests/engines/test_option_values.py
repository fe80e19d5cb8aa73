"""What an option of a foreign server takes: types, words and ranges, from YAML and from a properties file."""

from __future__ import annotations

import json
from dataclasses import asdict

import annotated_types
import pytest

from engines.api import Capabilities
from engines.foreign_servers.python_servers.vllm_arguments import bounds_in
from engines.option_values import OptionValues
from engines.setting import OptionValue
from engines.spec_check import why_not

WHOLE = OptionValues(kind="int", low=1, high=8)
SHARE = OptionValues(kind="float", low=0, is_low_out=True, high=1)
WORD = OptionValues(kind="text", choices=("auto", "on", "off"))


@pytest.mark.parametrize(
    ("values", "value"),
    [
        (WHOLE, 1), (WHOLE, 8), (WHOLE, "8"), (SHARE, 1), (SHARE, 0.5), (SHARE, "1e-3"), (WORD, "auto"), (WORD, True),
        (OptionValues(kind="flag"), False), (OptionValues(kind="switch"), "true"), (OptionValues(kind="text"), 3),
        (OptionValues(kind="list"), "1 2"), (OptionValues(kind="int"), -1),
    ],
)  # fmt: skip
def test_what_it_takes(values: OptionValues, value: OptionValue) -> None:
    assert values.takes(value)
    assert values.why_not(value) == ""


@pytest.mark.parametrize(
    ("values", "value", "why"),
    [
        (WHOLE, 0, "expected a whole number >= 1 and <= 8"),
        (WHOLE, 9, "expected a whole number >= 1 and <= 8"),
        (WHOLE, True, "expected a whole number >= 1 and <= 8"),
        (WHOLE, 1.0, "expected a whole number >= 1 and <= 8"),
        (WHOLE, "many", "expected a whole number >= 1 and <= 8"),
        (SHARE, 0, "expected a number > 0 and <= 1"),
        (SHARE, float("nan"), "expected a number > 0 and <= 1"),
        (OptionValues(kind="float", high=1, is_high_out=True), 1, "expected a number < 1"),
        (OptionValues(kind="flag"), 1, "expected true or false"),
        (WORD, "aut", "expected one of auto, on, off; did you mean 'auto'?"),
        (OptionValues(kind="text", choices=("x",)), "y", "expected x"),
    ],
)
def test_what_it_refuses_in_one_sentence(values: OptionValues, value: OptionValue, why: str) -> None:
    assert values.why_not(value) == why
    able = Capabilities(effective_dtypes={}, options={"it": ""}, option_values={"it": values})
    assert why_not("vllm", "options.it", value, able) == why
    assert OptionValues.from_row(json.loads(json.dumps(asdict(values)))) == values


def test_bounds_are_those_of_pydantics_constraints() -> None:
    share = bounds_in([annotated_types.Gt(0), annotated_types.Le(1)])
    assert OptionValues(kind="float", **share) == SHARE
    assert bounds_in([annotated_types.Ge(-1), "other"]) == {"low": -1, "is_low_out": False}
    assert bounds_in([]) == {}
