"""Records survive the round trip through JSON exactly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from harness.records import Candidate, Metric, RequestRecord, Trial
from harness.store.codec import DecodeError, from_json, to_json
from harness.store.formats import RunManifest
from tests.harness.store import trials


def _there_and_back(record: Any) -> Any:
    return from_json(type(record), json.loads(json.dumps(to_json(record), allow_nan=False)))


@given(trials.trials)
def test_every_trial_survives_exactly(trial: Trial) -> None:
    again = _there_and_back(trial)
    assert again == trial
    assert repr(again) == repr(trial)  # 1, 1.0 and True are equal, but not the same


@given(trials.requests)
def test_every_request_record_survives_exactly(record: RequestRecord) -> None:
    assert repr(_there_and_back(record)) == repr(record)


def test_a_manifest_survives_exactly() -> None:
    manifest: RunManifest = trials.a_manifest()
    assert _there_and_back(manifest) == manifest


def test_nan_survives() -> None:
    metric = Metric(value=math.nan, unit="ms", estimator="none", n=0, low=-math.inf)
    again = _there_and_back(metric)
    assert math.isnan(again.value)
    assert again.low == -math.inf


def test_a_whole_number_read_into_a_float_field_becomes_one() -> None:
    fields = {"value": 3, "unit": "ms", "estimator": "e", "n": 1}
    assert repr(from_json(Metric, fields).value) == "3.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "Candidate.colour: unknown field"),
        ({"block": None}, "Candidate.block: expected a valid integer, got None"),
        ({"block": True}, "Candidate.block: expected a valid integer, got True"),
        ({"threads": "two"}, "Candidate.threads: expected a valid integer, got 'two'"),
        ({"threads": "2"}, "Candidate.threads: expected a valid integer, got '2'"),
        (
            {"options": {"a": [1]}},
            "Candidate.options.a: expected a valid boolean or a valid integer or a valid number or a valid string, got",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_its_path(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        from_json(Candidate, {"block": 0, "engine": "fake", **change})


def test_a_missing_field_without_default_is_named_and_one_with_default_is_not_missed() -> None:
    assert from_json(Candidate, {"block": 0, "engine": "fake"}) == Candidate(block=0, engine="fake")
    with pytest.raises(DecodeError, match=r"Candidate\.engine: missing"):
        from_json(Candidate, {"block": 0})


def test_an_outcome_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DecodeError, match=r"Trial\.outcome: expected 'ok', 'skipped', .* got 'fine'"):
        from_json(Trial, {**to_json(trials.a_trial()), "outcome": "fine"})


def test_lists_paths_and_unknown_values_keep_their_shape() -> None:
    manifest = {"scenario": {"path": Path("/a"), "axes": (1, 1.0, True, None)}, "low": -math.inf}
    assert to_json(manifest) == {"scenario": {"path": "/a", "axes": [1, 1.0, True, None]}, "low": {"$float": "-inf"}}
    fields = {"scenario": {"axes": [1, {"$float": "nan"}]}, "digest": "d"}
    axes: Any = from_json(RunManifest, fields).scenario["axes"]
    assert isinstance(axes, list)
    assert math.isnan(axes[1])


def test_a_lone_surrogate_costs_one_character_not_the_run() -> None:
    """Python has them where a file name is not UTF-8; a command line may hold one."""
    fields = {"scenario": {}, "digest": "d", "command": ["tune", "caf\udce9.yaml"]}
    assert from_json(RunManifest, fields).command == ("tune", "caf?.yaml")
