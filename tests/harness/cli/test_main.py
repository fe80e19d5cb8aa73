"""The command group: fast help, one sentence an error, documented exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.cli.main import VERBS, run


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    assert "dyno " + verb in capsys.readouterr().out


def test_an_unknown_verb_is_a_usage_error_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tuen"]) == 2
    assert "did you mean 'tune'?" in capsys.readouterr().err


def test_a_missing_scenario_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", "no-such.yaml"]) == 2
    err = capsys.readouterr().err
    assert "no-such.yaml" in err
    assert "Traceback" not in err


@pytest.mark.heavy
def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "harness", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("dyno")
