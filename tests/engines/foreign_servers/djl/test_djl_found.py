"""Finding a DJL Serving on this machine, and unpacking its release archive safely."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from engines.errors import Unavailable
from engines.foreign_servers.djl import engine as djl
from engines.foreign_servers.djl import found as djl_found
from engines.foreign_servers.djl.engine import DjlEngine
from engines.foreign_servers.djl.found import find_djl, install_djl, installed_homes
from engines.foreign_servers.java_servers.java import java_problem
from harness.cli.engine import command


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No DJL Serving but the test's."""
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DJL_SERVING_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)


def _release(folder: Path, version: str = "0.36.0", command: str = "serving") -> Path:
    """A folder laid out as a release."""
    for name, text in ((f"bin/{command}", "#!/bin/sh\n"), (f"lib/serving-{version}.jar", "PK"), ("lib/api.jar", "PK")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "bin" / command).chmod(0o755)
    return folder


def _tar(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        archive.add(folder, folder.name)
    return path


def _zip(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, Path(folder.name) / file.relative_to(folder))
    return path


@pytest.mark.parametrize("kind", ["serving-0.36.0.tar", "serving.tar.gz", "serving.zip", "folder"])
def test_a_release_is_unpacked_and_found(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(djl, "java_problem", lambda: "")
    folder = _release(tmp_path / "serving-0.36.0")
    source = {"folder": lambda _, path: path, "serving.zip": _zip}.get(kind, _tar)(tmp_path / kind, folder)
    home = install_djl(source)
    if source != folder:
        shutil.rmtree(folder)
    found = find_djl()
    assert found is not None
    assert (found.command, found.version, found.by) == (home / "bin" / "serving", "0.36.0", "installed")
    assert "DJL Serving 0.36.0, installed" in DjlEngine().probe().note
    monkeypatch.setattr(djl, "java_problem", lambda: "java is Java 8")
    assert DjlEngine().probe().reason == "java is Java 8", "so that a plan leaves it out"
    assert [path.name for path in home.parent.iterdir()] == ["djl-serving-0.36.0"], "no half of one beside it"


def test_the_order_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("0.9.0", "0.36.0"):
        install_djl(_release(tmp_path / version, version))
    assert [path.name for path in installed_homes()] == ["djl-serving-0.36.0", "djl-serving-0.9.0"]
    _release(tmp_path / "debian", "0.34.0", "djl-serving")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "djl-serving").symlink_to(tmp_path / "debian" / "bin" / "djl-serving")
    on_path = find_djl()
    assert on_path is not None
    assert (on_path.version, on_path.by) == ("0.34.0", "on the path")
    monkeypatch.setenv("DJL_SERVING_HOME", str(_release(tmp_path / "home", "0.35.1")))
    named = find_djl()
    assert named is not None
    assert (named.version, named.by) == ("0.35.1", "DJL_SERVING_HOME")
    wanted = find_djl(str(tmp_path / "debian"))
    assert wanted is not None
    assert (wanted.version, wanted.by) == ("0.34.0", "options.command")
    assert find_djl(str(tmp_path / "none")) is None


def test_why_none_is_found_names_what_was_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJL_SERVING_HOME", str(tmp_path))
    assert f"DJL_SERVING_HOME is '{tmp_path}', which holds no bin/djl-serving" in DjlEngine().probe().reason
    assert "'/nowhere' is no program and no folder of one: install it" in DjlEngine("/nowhere").probe().reason
    package = tmp_path / "djl-serving_0.36.0-1_all.deb"
    package.touch()
    with pytest.raises(Unavailable, match=r"a Debian package: install it with `dpkg -i`"):
        install_djl(package)


def _escaping(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("../outside")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    return path


def _linking(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("serving/lib")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(entry)
    return path


def _escaping_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../outside", "x")
    return path


def _broken(path: Path) -> Path:
    path.write_bytes(b"not an archive")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_escaping, "cannot be unpacked: .*outside"),
        (_linking, "cannot be unpacked: "),
        (_escaping_zip, "its entry '../outside' lies outside of it"),
        (_broken, r"cannot be unpacked: .*; name a \.tar"),
        (lambda path: path, "nothing there"),
        (lambda path: _tar(path, _release(path.with_name("other")).joinpath("bin")), "not a release of DJL Serving"),
    ],
)
def test_what_is_no_release_is_refused_and_leaves_nothing(make: object, message: str, tmp_path: Path) -> None:
    assert callable(make)
    with pytest.raises(Unavailable, match=message):
        install_djl(make(tmp_path / "serving.tar"))
    assert not list((tmp_path / "cache").rglob("*")) or list((tmp_path / "cache" / "engines").iterdir()) == []
    assert not (tmp_path / "outside").exists()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("version", "problem"),
    [
        ('openjdk version "17.0.2"', ""),
        ('java version "1.8.0_292"', "is Java 8, and DJL Serving needs 11"),
        ("?", "of no version"),
    ],
)
def test_a_java_that_is_too_old_is_named(version: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    java = tmp_path / "bin" / "java"
    java.write_text(f"#!/bin/sh\nprintf '%s\\n' '{version}' >&2\n")
    java.chmod(0o755)
    found = java_problem()
    assert problem in found
    assert bool(found) == bool(problem)


def test_no_java_at_all_is_named() -> None:
    assert "no java found" in java_problem()


def test_the_command_installs_and_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cli.engine.java_problem", lambda: "")
    archive = _tar(tmp_path / "serving-0.36.0.tar", _release(tmp_path / "serving-0.36.0"))
    run = CliRunner().invoke
    done = run(command, ["install", "djl", "--from", str(archive)])
    assert (done.exit_code, "DJL Serving 0.36.0" in done.output) == (0, True), done.output
    assert "in no package index: name its release" in run(command, ["install", "djl"]).output
    assert "--from belongs to djl" in run(command, ["install", "openvino", "--from", str(archive)]).output
    assert "djl-serving-0.36.0" in run(command, ["remove", "djl"]).output
    assert djl_found.find_djl() is None
