"""An engine in another environment: found, asked, served from there, and never taken silently."""

from __future__ import annotations

import re
import shutil
import sys
import venv as venv_module
from pathlib import Path

import httpx
import pytest

from engines.adapters.fake import FakeEngine
from engines.api import Availability, EngineSpec
from engines.environments.describe import describe
from engines.environments.locate import STAMP, environment_folder, installed_python, interpreter
from engines.environments.packages import package_availability
from engines.errors import SpecInvalid, Unavailable
from engines.launching import RemoteEngine, engine_here, load_engine, serving_python
from harness.space.capabilities import engine_capabilities

READY_TIMEOUT_S = 120.0
ROOT = Path(__file__).parents[3]


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A folder that looks like an environment: its interpreter is a symbolic link to this one."""
    folder = tmp_path / "venv"
    make_venv(folder)
    return folder


def make_venv(folder: Path) -> None:
    venv_module.EnvBuilder(with_pip=False, symlinks=True).create(folder)


def test_an_interpreter_is_named_by_its_folder_or_itself(venv: Path) -> None:
    assert interpreter(str(venv), "fake") == venv / "bin" / "python"
    assert interpreter(str(venv / "bin" / "python"), "fake") == venv / "bin" / "python"


def test_a_name_that_leads_to_no_interpreter_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path))
    with pytest.raises(Unavailable, match=r"bin/python is no interpreter; name a venv folder"):
        interpreter(str(tmp_path), "fake")
    with pytest.raises(Unavailable, match="`dyno engine install deepspeed` makes it"):
        interpreter("auto", "deepspeed")


def test_half_an_installation_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path))
    folder = environment_folder("fake")
    folder.parent.mkdir(parents=True)
    make_venv(folder)

    assert installed_python("fake") is None

    (folder / STAMP).write_text("{}")
    assert installed_python("fake") == folder / "bin" / "python"


@pytest.mark.heavy
def test_an_environment_is_asked_what_it_can_do(venv: Path) -> None:
    availability, able = describe("fake", venv / "bin" / "python")
    assert availability.is_available
    assert able == FakeEngine().capabilities()

    availability, able = describe("onnxruntime", venv / "bin" / "python")
    assert not availability.is_available
    assert able is None
    assert "onnxruntime" in availability.reason


@pytest.mark.heavy
def test_an_engine_in_an_environment_that_cannot_start_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text('#!/bin/sh\n[ "$1" = -I ] && echo 3 12\necho no such luck >&2\nexit 7\n')
    broken.chmod(0o755)
    availability, _ = describe("fake", broken)
    assert "could not be asked about fake: no such luck" in availability.reason


@pytest.mark.heavy
def test_the_workers_run_in_the_named_environment_and_the_facts_say_so(venv: Path, tmp_path: Path) -> None:
    spec = EngineSpec(engine="fake", model_dir=tmp_path, python=str(venv))
    with FakeEngine().launch(spec, tmp_path / "logs", READY_TIMEOUT_S) as running:
        assert f"served by the environment {venv}" in running.facts.notes
        assert httpx.post(running.endpoint.url + "/invocations", json={"inputs": "a b"}).status_code == 200
    properties = (tmp_path / "logs" / "serving.properties").read_text()
    assert f"option.pythonExecutable={venv}/bin/python" in properties


def test_missing_packages_are_taken_from_the_installed_environment(
    venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path))
    folder = environment_folder("onnxruntime")
    folder.parent.mkdir(parents=True)
    make_venv(folder)
    (folder / STAMP).write_text('{"packages": {}}')

    assert serving_python("onnxruntime", None) is None  # its packages are here
    monkeypatch.setattr("engines.environments.packages.find_spec", lambda name: None)
    assert serving_python("onnxruntime", None) == folder / "bin" / "python"
    assert isinstance(load_engine("onnxruntime"), RemoteEngine)
    assert serving_python("onnxruntime", str(venv)) == venv / "bin" / "python"  # a named one wins


def test_an_engine_without_a_python_process_refuses_an_environment(venv: Path) -> None:
    with pytest.raises(SpecInvalid, match=r"attach: python .* refused"):
        load_engine("attach", str(venv))


@pytest.mark.heavy
def test_another_checkout_serves_whole(tmp_path: Path) -> None:
    """A copy of `engines` whose front says something else in its facts."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "engines", root / "engines", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    fake = root / "engines" / "adapters" / "fake.py"
    fake.write_text(fake.read_text().replace('versions={"fake": "1"}', 'versions={"fake": "the copy"}'))
    spec = EngineSpec(engine="fake", model_dir=tmp_path, source_root=root, python=sys.executable)
    with engine_here("fake").launch(spec, tmp_path / "logs", READY_TIMEOUT_S) as running:
        assert running.facts.versions == {"fake": "the copy"}
        assert httpx.post(running.endpoint.url + "/invocations", json={"inputs": "a b"}).status_code == 200


def test_a_source_root_without_a_server_is_refused(tmp_path: Path) -> None:
    spec = EngineSpec(engine="fake", model_dir=tmp_path, source_root=tmp_path)
    with (
        pytest.raises(SpecInvalid, match="no engines/server in it"),
        FakeEngine().launch(spec, tmp_path, READY_TIMEOUT_S),
    ):
        pass


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("exit 0", "does not answer as a Python 3 does"),
        ('[ "$1" = -I ] && echo 3 9; exit 1', r"is Python 3\.9; engines need 3\.11 or later"),
        (
            '[ "$1" = -I ] && echo 3 12; echo "ModuleNotFoundError: No module named \'numpy\'" >&2; exit 1',
            "has no package numpy, which every engine's workers need",
        ),
    ],
)
def test_an_interpreter_that_cannot_serve_is_one_sentence_with_what_helps(tmp_path: Path, text: str, why: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{text}\n")
    python.chmod(0o755)
    availability, able = describe("deepspeed", python)
    assert able is None
    assert re.search(why + ".*; name another, or 'auto' after `dyno engine install deepspeed`", availability.reason)
    assert "\n" not in availability.reason


def test_a_plan_says_where_it_asked_and_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path / "none"))
    engine_capabilities.cache_clear()
    asked = {
        ("deepspeed", "auto"): "deepspeed has no separate environment here: `dyno engine install deepspeed` makes it",
        ("fake", "auto"): "fake has no environment that could be installed; leave out python: auto",
        ("attach", "auto"): "attach: python 'auto' refused: this engine starts no Python process",
        ("deepspeed", str(tmp_path / "no")): f"python '{tmp_path}/no': {tmp_path}/no is no interpreter; name a venv "
        "folder, an interpreter, or 'auto' after `dyno engine install deepspeed`",
    }
    message = {key: engine_capabilities(*key) for key in asked}
    assert {key: answer.reason for key, answer in message.items() if isinstance(answer, Availability)} == asked
    engine_capabilities.cache_clear()


def test_a_missing_package_names_both_ways_to_get_it() -> None:
    assert "`dyno engine install deepspeed`" in package_availability(("no_such_package",), "deepspeed").reason
    assert "engine install" not in package_availability(("no_such_package",), "sagemaker").reason
