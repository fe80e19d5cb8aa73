"""Planted secrets reach no log, no message, no journal and no result."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from engines.errors import EngineError
from engines.models.download.redaction import MASK, Redactor
from engines.sagemaker.engine import SageMakerEngine
from engines.sagemaker.weights import release_weights
from tests.sagemaker_emulator.fixtures import spec_for
from tests.sagemaker_emulator.local import KEY_ID, SECRET, Local

TOKEN = "planted-session-token-FwoGZXIvYXdzEBYaD/planted//////////wEaDEXAMPLE"


def _everything_written(folder: Path) -> str:
    return "\n".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


@pytest.mark.heavy
@pytest.mark.parametrize("outcome", ["ok", "refused", "echoed"])
def test_secrets_are_nowhere(
    cloud: Local,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    outcome: str,
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    caplog.set_level(logging.INFO, logger="dyno.sagemaker")
    message = ""
    if outcome == "refused":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAPLANTEDWRONGKEY0")
    if outcome == "echoed":  # AWS quotes what it was sent
        monkeypatch.setattr(
            "tests.sagemaker_emulator.control.CAPACITY", f"broken: key {KEY_ID}, secret {SECRET}, token {TOKEN}"
        )
        cloud.emulator.faults.capacity_failures = 1
    try:
        with SageMakerEngine().launch(spec_for(), tmp_path / "work", 30.0) as running:
            message = repr(running.facts)
    except EngineError as error:
        message = str(error)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    release_weights()
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name == "dyno.sagemaker")
    printed = capfd.readouterr()
    written = _everything_written(tmp_path)
    assert written, "there are files to look into"
    for place in (message, logged, printed.out, printed.err, written):
        for secret in (KEY_ID, SECRET, TOKEN, "AKIAPLANTEDWRONGKEY0"):
            assert secret not in place
    if outcome == "echoed":
        assert f"secret {MASK}" in message


@pytest.mark.parametrize(
    "text",
    [
        "Credential=AKIAIOSFODNN7EXAMPLE/20260101/us-east-1/sagemaker/aws4_request",
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
        "?X-Amz-Security-Token=FwoGZXIvYXdzEBYaDEXAMPLE&x=1",
        "key ASIAIOSFODNN7EXAMPLE in a sentence",
    ],
)
def test_what_looks_like_a_credential_is_masked_even_when_unknown(text: str) -> None:
    masked = Redactor()(text)
    assert MASK in masked
    assert "EXAMPLE" not in masked
    assert "5d672d79" not in masked


def test_ordinary_words_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    assert Redactor()("a test of the endpoint") == "a test of the endpoint"
