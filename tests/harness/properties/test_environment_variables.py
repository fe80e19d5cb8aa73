"""Properties to environment variables and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.properties.environment_variables import from_environment, to_environment

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True).filter(lambda name: name not in ("engine", "entrypoint"))
VALUES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n"), min_size=1, max_size=40)


@given(
    st.dictionaries(st.one_of(NAMES.filter(lambda n: n != "load_models"), NAMES.map("option.{}".format)), VALUES),
    st.sampled_from(["Python", "MPI", None]),
)
def test_every_expressible_file_comes_back(values: dict[str, str], engine: str | None) -> None:
    whole = {**values, **({"engine": engine} if engine else {}), "option.entryPoint": "djl_python.huggingface"}
    assert from_environment(to_environment(whole)).values == whole


@pytest.mark.parametrize("key", ["minWorkers", "gpu.maxWorkers", "option.pythonExecutable"])
def test_a_key_in_camel_case_is_refused_by_name(key: str) -> None:
    with pytest.raises(UsageError, match=f"{key}: no environment variable can spell it"):
        to_environment({key: "2"})


def test_the_option_wins_over_its_alias_whatever_the_order() -> None:
    one = {"HF_MODEL_ID": "a", "OPTION_MODEL_ID": "b"}
    two = dict(reversed(one.items()))
    assert from_environment(one).values == from_environment(two).values == {"option.model_id": "b"}


def test_sagemakers_limits_are_named() -> None:
    with pytest.raises(UsageError, match="at most 100 entries, got 101"):
        to_environment({f"option.k{i}": "v" for i in range(101)})
    with pytest.raises(UsageError, match="OPTION_TASK: expected at most 1024 bytes"):
        to_environment({"option.task": "x" * 1025})
    with pytest.raises(UsageError, match=r"option\.task: expected one line"):
        to_environment({"option.task": "a\nb"})
