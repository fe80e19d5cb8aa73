"""Machine facts are JSON, explain a number, and give nothing away."""

from __future__ import annotations

import getpass
import json
import platform
import socket

import pytest

from harness.measure.machine.facts import git_commit, machine_facts, package_versions


def test_facts_are_json_and_name_what_moves_a_number() -> None:
    facts = machine_facts()
    assert {"cpu_model", "cpu_flags", "cores", "memory_mib", "governor", "kernel", "python"} <= set(facts)
    assert json.loads(json.dumps(facts)) == facts
    assert isinstance(facts["memory_mib"], int)
    assert facts["memory_mib"] > 0


@pytest.mark.heavy
def test_facts_hold_neither_the_host_nor_the_user_name(monkeypatch: pytest.MonkeyPatch) -> None:
    known = platform.uname()
    monkeypatch.setattr(platform, "uname", lambda: known._replace(node="the-host"))
    monkeypatch.setattr(platform, "node", lambda: "the-host")
    monkeypatch.setattr(socket, "gethostname", lambda: "the-host")
    monkeypatch.setattr(getpass, "getuser", lambda: "the-user")
    for name in ("USER", "LOGNAME", "HOSTNAME", "HOME"):
        monkeypatch.setenv(name, "the-user")
    text = json.dumps([machine_facts(), package_versions(), git_commit()])
    assert "the-host" not in text
    assert "the-user" not in text


def test_versions_of_installed_packages() -> None:
    versions = package_versions()
    assert "numpy" in versions
    assert all(versions.values())
