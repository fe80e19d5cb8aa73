"""Properties to environment variables and back."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.properties.containers import Container, container_names, parse_container
from harness.properties.environment_variables import FILE_ONLY, from_environment, to_environment

NEWEST = parse_container("0.36.0")
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True).filter(lambda name: name not in ("engine", "entrypoint"))
MIXED = st.from_regex(r"[a-z]{1,9}[A-Z][A-Za-z]{0,9}", fullmatch=True)
VALUES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n"), min_size=1, max_size=40)


@given(
    st.dictionaries(st.one_of(NAMES, MIXED, NAMES.map("option.{}".format), MIXED.map("option.{}".format)), VALUES),
    st.sampled_from(["Python", "MPI", None]),
)
def test_every_expressible_file_comes_back(values: dict[str, str], engine: str | None) -> None:
    assume(not set(FILE_ONLY) & set(values))
    whole = {**values, **({"engine": engine} if engine else {}), "option.entryPoint": "djl_python.huggingface"}
    assert from_environment(to_environment(whole, NEWEST), NEWEST).values == whole


@pytest.mark.parametrize("name", container_names()[1:])
def test_what_a_version_writes_it_reads_back(name: str) -> None:
    container = parse_container(name)
    written = [_written(key, container) for key in ("engine", "minWorkers", "batch_size", "option.entryPoint")]
    assert all(from_environment(one, container).values == {key: "Python"} for key, one in written if one)
    assert written[0][1]


def _written(key: str, container: Container) -> tuple[str, dict[str, str]]:
    try:
        return key, to_environment({key: "Python"}, container)
    except UsageError:
        return key, {}


@pytest.mark.parametrize(
    ("key", "container", "variable"),
    [
        ("minWorkers", "0.26.0", "SERVING_MIN_WORKERS"),
        ("maxWorkers", "0.36.0-lmi20", "SERVING_MAX_WORKERS"),
        ("job_queue_size", "0.21.0", "SERVING_JOB_QUEUE_SIZE"),
        ("retry_threshold", "0.23.0", "SERVING_RETRY_THRESHOLD"),
        ("log_request_metric", "0.28.0", "ARGS_LOG_REQUEST_METRIC"),
        ("translatorFactory", "0.28.0", "ARGS_translatorFactory"),
        ("option.pythonExecutable", "0.28.0", "OPTION_pythonExecutable"),
        ("option.entryPoint", "0.23.0", "OPTION_ENTRYPOINT"),
        ("option.entryPoint", "0.22.1", "DJL_ENTRY_POINT"),
    ],
)
def test_the_variable_of_a_key(key: str, container: str, variable: str) -> None:
    assert to_environment({key: "2"}, parse_container(container)) == {variable: "2"}


@pytest.mark.parametrize(
    ("key", "container"),
    [
        ("minWorkers", "0.25.0"),
        ("option.pythonExecutable", "0.27.0"),
        ("option.model_id", "0.22.1"),
        ("gpu.maxWorkers", "0.36.0"),
        ("required_memory_mb", "0.36.0"),
        ("log_request_metric", "0.27.0"),
    ],
)
def test_a_key_without_a_variable_is_refused_by_name(key: str, container: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(key)}: .*keep it in a file"):
        to_environment({key: "2"}, parse_container(container))


def test_variables_of_a_published_notebook() -> None:
    variables = {
        "HF_MODEL_ID": "x/y",
        "SERVING_MIN_WORKERS": "1",
        "SERVING_MAX_WORKERS": "2",
        "OPTION_entryPoint": "djl_python.huggingface",
        "MODEL_LOADING_TIMEOUT": "3600",
        "PREDICT_TIMEOUT": "300",
        "ARGS_NORMALIZE": "true",
        "CUDA_MEMORY_FRACTION": "0.8",
        "SERVING_FAIL_FAST": "true",
        "MY_OWN": "1",
    }
    found = from_environment(variables, NEWEST)
    assert found.values == {
        "option.model_id": "x/y",
        "minWorkers": "1",
        "maxWorkers": "2",
        "option.entryPoint": "djl_python.huggingface",
        "option.model_loading_timeout": "3600",
        "option.predict_timeout": "300",
        "normalize": "true",
        "option.gpu_memory_utilization": "0.8",
    }
    assert found.server_wide == ("SERVING_FAIL_FAST",)
    assert found.ignored == ("MY_OWN",)
    old = from_environment(variables, parse_container("0.25.0"))
    assert old.values == {
        "option.model_id": "x/y",
        "option.entryPoint": "djl_python.huggingface",
        "option.model_loading_timeout": "3600",
        "option.predict_timeout": "300",
    }


def test_sagemakers_own_names_win_where_they_are_read() -> None:
    variables = {"SAGEMAKER_NUM_MODEL_WORKERS": "3", "SERVING_MAX_WORKERS": "1", "OPTION_PREDICT_TIMEOUT": "9"}
    assert from_environment(variables, NEWEST).values == {
        "minWorkers": "3",
        "maxWorkers": "3",
        "option.predict_timeout": "9",
    }
    assert "minWorkers" not in from_environment(variables, parse_container("0.34.0")).values


def test_the_option_wins_over_its_alias_whatever_the_order() -> None:
    one = {"HF_MODEL_ID": "a", "OPTION_MODEL_ID": "b"}
    two = dict(reversed(one.items()))
    assert from_environment(one, NEWEST).values == from_environment(two, NEWEST).values == {"option.model_id": "b"}


def test_sagemakers_limits_are_named() -> None:
    with pytest.raises(UsageError, match="at most 100 entries, got 101"):
        to_environment({f"option.k{i}": "v" for i in range(101)}, NEWEST)
    with pytest.raises(UsageError, match="OPTION_TASK: expected at most 1024 bytes"):
        to_environment({"option.task": "x" * 1025}, NEWEST)
    with pytest.raises(UsageError, match=r"option\.task: expected one line"):
        to_environment({"option.task": "a\nb"}, NEWEST)
