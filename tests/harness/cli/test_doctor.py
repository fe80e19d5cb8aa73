"""`dyno doctor` on the engines of this machine."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from engines.adapters.fake import FakeEngine
from engines.api import Availability
from harness.cli import doctor

pytestmark = pytest.mark.heavy

OLD = "fake is served from an environment that is old: `dyno engine install fake` renews it"


def test_an_environment_that_its_list_has_left_behind_is_said_beside_its_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "why_stale", lambda engine, python: OLD if engine == "fake" else "")
    monkeypatch.setattr(doctor, "_engine_names", lambda: ("fake", "attach"))
    monkeypatch.setenv("COLUMNS", "200")
    printed = CliRunner().invoke(doctor.command, [])
    assert printed.exit_code == 0, printed.output
    message = " ".join(printed.output.replace("│", " ").split())
    assert f"warn: {OLD[:40]}" in message
    assert message.count("warn: fake") == 1


def test_brackets_of_a_reason_are_not_taken_for_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "x not installed: pip install 'dynamometer[openvino]', or something else"
    monkeypatch.setattr(FakeEngine, "probe", lambda self: Availability(is_available=False, reason=why))
    monkeypatch.setattr(doctor, "_engine_names", lambda: ("fake",))
    monkeypatch.setenv("COLUMNS", "200")
    printed = CliRunner().invoke(doctor.command, [])
    assert printed.exit_code == 0, printed.output
    assert f"no: {why}" in printed.output


def test_int8_of_the_bundled_engine_names_w8a8_and_its_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_engine_names", lambda: ("t5",))
    monkeypatch.setenv("COLUMNS", "400")
    printed = CliRunner().invoke(doctor.command, []).output
    assert "int8: w8a8 has the same weights beside 8-bit activations" in printed
    assert "4000 held-out answers" in printed


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_its_tables_fit_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    printed = CliRunner().invoke(doctor.command, [])
    assert max(map(len, printed.output.splitlines())) <= int(columns)
