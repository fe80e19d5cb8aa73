"""Installing an environment from a pinned list: once, whole or not at all. A wheel made here is the package."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest

from engines import launching
from engines.environments import install, package_list
from engines.environments.install import Environment
from engines.environments.locate import environment_folder, installed_python
from engines.environments.package_list import LISTS
from engines.errors import Unavailable
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

ROOT = LISTS.parents[1]


@pytest.fixture(autouse=True)
def own_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list for `fake` that pins one package, found in a folder of wheels; the network is not asked."""
    lists = tmp_path / "lists"
    lists.mkdir()
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for version in ("1.0", "2.0"):
        wheel(wheels, version)
    (lists / "fake.txt").write_text("dynoprobe==1.0\n")
    monkeypatch.setattr(package_list, "LISTS", lists)
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return lists


def wheel(folder: Path, version: str, name: str = "dynoprobe", needs: str = "") -> Path:
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        requires = f"Requires-Dist: {needs}\n" if needs else ""
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return path


def made() -> tuple[Environment, list[str]]:
    message: list[str] = []
    return install.install("fake", None, message.append), message


def printed_by(statement: str) -> str:
    python = installed_python("fake")
    assert python is not None
    return subprocess.run([str(python), "-c", statement], capture_output=True, text=True, check=True).stdout.strip()


def test_it_is_made_once_and_sees_the_packages_of_this_one() -> None:
    environment, message = made()
    assert (environment.state, environment.packages) == ("installed", {"dynoprobe": "1.0"})
    assert any(line.startswith("Successfully installed") for line in message)
    assert printed_by("import dynoprobe, numpy; print(dynoprobe.VERSION)") == "1.0"

    again, message = made()
    assert again == environment
    assert message == [f"{environment.folder} is there and current"]


@pytest.mark.parametrize("gone", ["dynoprobe.py", "dynoprobe-1.0.dist-info", "../../../bin/python"])
def test_what_has_lost_files_is_made_anew(gone: str) -> None:
    environment, _ = made()
    (site,) = environment.folder.glob("lib/python3*/site-packages")
    lost = site / gone
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()

    again, message = made()
    why = "its Python does not run" if gone.endswith("python") else "dynoprobe"
    assert message[:2] == [f"{again.folder} is there and not whole: {why}", f"removing {again.folder}"]
    assert again == environment
    assert printed_by("import dynoprobe; print(dynoprobe.VERSION)") == "1.0"


def test_an_environment_without_pip_gets_it_from_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "find_spec", lambda name: None)
    environment, _ = made()
    assert environment.packages == {"dynoprobe": "1.0"}
    assert (environment.folder / "bin" / "pip").exists()


def test_a_changed_list_makes_it_stale_and_installing_makes_it_anew(own_lists: Path) -> None:
    made()
    (own_lists / "fake.txt").write_text("dynoprobe==2.0\n")
    assert [row.state for row in install.environments()] == ["stale"]
    assert launching.why_stale("fake", "auto") == (
        f"fake is served from {environment_folder('fake')}, which was made from another package list or Python than "
        "now: `dyno engine install fake` renews it"
    )
    assert launching.why_stale("fake", str(environment_folder("fake"))) == launching.why_stale("fake", "auto")
    assert launching.why_stale("fake", "") == "", "its packages are here: the environment is not used"
    assert launching.why_stale("fake", sys.prefix) == ""

    environment, _ = made()
    assert environment.packages == {"dynoprobe": "2.0"}
    assert launching.why_stale("fake", "auto") == ""


def test_a_package_that_is_not_to_be_had_is_one_sentence_and_nothing_stays(own_lists: Path) -> None:
    (own_lists / "fake.txt").write_text("dynoprobe==3.0\n")
    with pytest.raises(Unavailable, match=r"failed: .*dynoprobe==3\.0.*the whole log: .*fake\.log"):
        made()
    assert not environment_folder("fake").exists()


def test_another_interpreter_gets_everything_of_its_own(tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(other)], check=True)
    environment = install.install("fake", other, lambda line: None)
    assert environment.packages == {"dynoprobe": "1.0"}
    assert printed_by("import dynoprobe; print(dynoprobe.VERSION)") == "1.0"
    assert printed_by("from importlib.util import find_spec; print(find_spec('pytest'))") == "None"
    message: list[str] = []
    install.install("fake", other / "bin" / "python", message.append)
    assert message == [f"{environment.folder} is there and current"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "no program there"),
        ("#!/bin/sh\nexit 0\n", "does not answer as a Python 3 does"),
        ("#!/bin/sh\necho '[[3, 8], true]'\n", r"is Python 3\.8; engines need 3\.11 or later"),
        ("#!/bin/sh\necho '[[3, 12], false]'\n", r"apt install python3\.12-venv"),
    ],
)
def test_what_is_no_interpreter_to_use_is_one_sentence_and_what_was_there_stays(
    tmp_path: Path, text: str | None, why: str
) -> None:
    stamp = environment_folder("fake") / "environment.json"
    stamp.parent.mkdir(parents=True)
    stamp.write_text("{}")
    python = tmp_path / "python"
    if text is not None:
        python.write_text(text)
        python.chmod(0o755)
    with pytest.raises(Unavailable, match=why) as raised:
        install.install("fake", python, lambda line: None)
    assert "\n" not in str(raised.value)
    assert stamp.is_file()


def test_removing() -> None:
    assert install.remove("fake") == ()
    made()
    assert install.remove("fake") == (environment_folder("fake"),)
    assert installed_python("fake") is None


def alone(wheels: Path) -> str:
    """A list that stands alone; its package is pinned by hash and asks for one that is nowhere to be had."""
    path = wheel(wheels, "1.0", "dynoserver", needs="nowhere-to-be-had==9")
    pinned = f"dynoserver==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    return "\n".join(["# dyno: alone", "# dyno: takes 1 MB and 5 seconds", pinned, "dynoprobe==1.0"]) + "\n"


def test_a_list_that_stands_alone_gets_what_it_names_and_nothing_else(own_lists: Path, tmp_path: Path) -> None:
    text = alone(tmp_path / "wheels")
    (own_lists / "fake.txt").write_text(text)
    environment, message = made()
    assert environment.packages == {"dynoserver": "1.0", "dynoprobe": "1.0"}
    assert message[0].endswith(": takes 1 MB and 5 seconds")
    assert printed_by("from importlib.util import find_spec; print(find_spec('numpy'))") == "None"

    (own_lists / "fake.txt").write_text(f"{text}# a remark changes nothing\n")
    assert made()[1] == [f"{environment.folder} is there and current"]

    (own_lists / "fake.txt").write_text(text.replace("dynoprobe==1.0", "dynoprobe==2.0"))
    assert [row.state for row in install.environments()] == ["absent"], "the other list's environment is not this one's"
    assert installed_python("fake") is None
    assert environment.folder.is_dir()
    assert install.remove("fake") == (environment.folder,), "also what an older list has left"


def test_a_file_with_another_hash_is_not_installed(own_lists: Path, tmp_path: Path) -> None:
    text = alone(tmp_path / "wheels")
    wheel(tmp_path / "wheels", "1.0", "dynoserver")
    (own_lists / "fake.txt").write_text(text)
    with pytest.raises(Unavailable, match=r"(?i)hash"):
        made()
    assert not environment_folder("fake").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_installation_does_not_count_and_pip_ends(
    number: signal.Signals, own_lists: Path, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "setup.py").write_text("import time\ntime.sleep(600)\n")
    (own_lists / "fake.txt").write_text(f"dynoprobe @ file://{slow}\n")
    program = (
        "from pathlib import Path; from engines.environments import install, package_list; "
        f"package_list.LISTS = Path({str(own_lists)!r}); install.install('fake', None, lambda line: None)"
    )
    child = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    log = environment_folder("fake").parent / "fake.log"
    eventually(lambda: log.exists() and "Processing" in log.read_text(), "pip is at work")
    assert child.poll() is None
    below = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(number)
    child.wait(30)

    _, alive = psutil.wait_procs(below, timeout=30)
    assert not alive
    assert installed_python("fake") is None
    if number == signal.SIGINT:
        assert not environment_folder("fake").exists()
    else:
        assert [row.state for row in install.environments()] == ["broken"]


def test_every_pin_agrees_with_the_constraints_of_the_development_environment() -> None:
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    lists = sorted(LISTS.glob("*.txt"))
    assert lists
    for each in lists:
        listed = package_list.read_list(each)
        if listed.is_alone:  # it has versions that clash with ours
            continue
        pins = listed.pins
        assert all(pins.values()), f"{each.name}: a package without a version"
        assert {name: pins[name] for name in pins.keys() & constraints.keys()} == {
            name: constraints[name] for name in pins.keys() & constraints.keys()
        }
