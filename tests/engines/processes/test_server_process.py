"""Owned processes: ready or a reason, ended with everything they started, even after kill -9 of their owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from engines.errors import LaunchFailed, NotReady, OutOfMemory
from engines.processes import supervisor
from engines.processes.http_look import http_status
from engines.processes.server_process import Command, ServerProcess, free_port, log_tail
from tests.engines.server.running import is_alive
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[3]
GONE_WITHIN_S = 5.0

FAMILY = """
import os, subprocess, sys, time, pathlib
# a child in the group, one in a session of its own, and an orphan whose parent has ended
children = [subprocess.Popen(["sleep", "600"]), subprocess.Popen(["sleep", "600"], start_new_session=True)]
subprocess.run([sys.executable, "-c", "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)"])
pathlib.Path(os.environ["READY"]).write_text("yes")
time.sleep(600)
"""


def python(tmp_path: Path, code: str, **env: str) -> Command:
    return Command(argv=[sys.executable, "-c", code], log_path=tmp_path / "log.txt", env=env, temp_dir=tmp_path / "tmp")


def alive(pids: Iterable[int]) -> list[int]:
    return [pid for pid in pids if is_alive(pid)]


def start_family(tmp_path: Path) -> tuple[ServerProcess, tuple[int, ...]]:
    process = ServerProcess(python(tmp_path, FAMILY, READY=str(tmp_path / "ready")))
    eventually((tmp_path / "ready").exists)
    orphans = set(supervisor.descendants(os.getpid())) - set(process.pids)
    everyone = tuple({*process.pids, *orphans})
    assert len(alive(everyone)) >= 5  # supervisor, server, three sleepers
    return process, everyone


def test_stop_leaves_no_descendant_and_no_temporary_folder(tmp_path: Path) -> None:
    process, everyone = start_family(tmp_path)
    (tmp_path / "tmp" / "scratch").write_text("x")
    process.stop(grace_s=0.2)
    assert alive(everyone) == []
    assert process.exit_code() == -signal.SIGTERM
    assert process.pids == ()
    assert not (tmp_path / "tmp").exists()


def test_a_server_that_ends_by_itself_takes_its_children_along(tmp_path: Path) -> None:
    process, everyone = start_family(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: not alive(everyone), "all are gone", GONE_WITHIN_S)
    assert process.exit_code() == -signal.SIGKILL
    process.stop()


def test_killing_the_supervisor_ends_the_server(tmp_path: Path) -> None:
    process = ServerProcess(python(tmp_path, "import time; time.sleep(600)"))
    (guard,) = [pid for pid in supervisor.descendants(os.getpid()) if process.pid in supervisor.descendants(pid)]
    os.kill(guard, signal.SIGKILL)
    eventually(lambda: not alive([process.pid]), "all are gone", GONE_WITHIN_S)
    assert process.exit_code() is not None
    process.stop()


@pytest.mark.parametrize("launcher", ["family", "fake engine"])
def test_kill_9_of_the_owner_leaves_nothing_alive(tmp_path: Path, launcher: str) -> None:
    family = f"""
from engines.processes.server_process import Command, ServerProcess
process = ServerProcess(Command(argv=[sys.executable, "-c", {FAMILY!r}], log_path=here / "log.txt",
                                env={{"READY": str(here / "ready")}}, temp_dir=here / "tmp"))
"""
    fake = """
from engines.api import EngineSpec
from engines.adapters.fake import FakeEngine
launch = FakeEngine().launch(EngineSpec(engine="fake", model_dir=here, workers=2), here, 120.0)
running = launch.__enter__()
(here / "ready").write_text("yes")
"""
    code = f"import sys, time, pathlib; here = pathlib.Path({str(tmp_path)!r})"
    code += (family if launcher == "family" else fake) + "\ntime.sleep(600)\n"
    owner = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    eventually((tmp_path / "ready").exists)
    everyone = supervisor.descendants(owner.pid)
    assert len(alive(everyone)) >= 4
    killed = time.monotonic()
    owner.kill()
    owner.wait()
    eventually(lambda: not alive(everyone), "all are gone", GONE_WITHIN_S)
    assert time.monotonic() - killed < GONE_WITHIN_S
    temporary = Path(tempfile.gettempdir())
    eventually(
        lambda: not [*tmp_path.glob("tmp"), *temporary.glob(f"dyno-{owner.pid}-*")], "all are gone", GONE_WITHIN_S
    )


SHARER = """
import mmap, os, pathlib, signal, subprocess, sys, time
name = "/dev/shm/" + sys.argv[1]
file = os.open(name, os.O_CREAT | os.O_RDWR)
os.ftruncate(file, 4096)
view = mmap.mmap(file, 4096)
for named in ("__KMP_REGISTERED_LIB_%d_%d", "torch_%d_1_%d"):  # made and closed, as Intel's OpenMP and torch do
    pathlib.Path("/dev/shm/" + named % (os.getpid(), os.getuid())).touch()
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, __file__, sys.argv[1] + "-child", "end"])
pathlib.Path(name + "-there").touch() if len(sys.argv) == 3 else None
time.sleep(600)
"""


def _glance(process: ServerProcess) -> None:
    """Wake the supervisor until it has looked at shared memory twice; it sleeps once a look."""
    (guard,) = [pid for pid in supervisor.descendants(os.getpid()) if process.pid in supervisor.descendants(pid)]

    def sleeps() -> int:
        status = Path(f"/proc/{guard}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    def woken() -> bool:
        os.kill(guard, signal.SIGUSR1)
        return sleeps() >= before + 4

    before = sleeps()
    eventually(woken)


@pytest.mark.parametrize("ends_by", ["stop", "its own death", "a hard stop"])
def test_what_a_server_leaves_in_shared_memory_is_removed(tmp_path: Path, ends_by: str) -> None:
    ours, other = f"vllm_dist_{os.getpid()}_{ends_by[:4]}".replace(" ", ""), Path(f"/dev/shm/vllm_dist_{os.getpid()}_x")
    code = tmp_path / "sharer.py"
    code.write_text(SHARER)
    strangers = Path(f"/dev/shm/__KMP_REGISTERED_LIB_{os.getpid()}_{os.getuid()}")
    for each in (other, strangers):
        each.touch()  # another server's: of no process of this one
    there = Path(f"/dev/shm/{ours}-child-there")
    try:
        command = Command(argv=[sys.executable, str(code), ours], log_path=tmp_path / "log.txt")
        process = ServerProcess(command)
        eventually(there.exists)
        there.unlink()
        assert Path(f"/dev/shm/{ours}").exists()
        named = {path for pid in process.pids for path in Path("/dev/shm").glob(f"*_{pid}_*")}
        assert len(named) == 4
        if ends_by == "its own death":
            _glance(process)
            os.kill(process.pid, signal.SIGKILL)
            eventually(lambda: process.exit_code() is not None)
        process.stop(grace_s=5.0 if ends_by == "stop" else 0)
        assert not list(Path("/dev/shm").glob(f"{ours}*"))
        assert not [path for path in named if path.exists()]
        assert other.exists()
        assert strangers.exists()
    finally:
        for path in (other, strangers, *Path("/dev/shm").glob(f"{ours}*")):
            path.unlink()


def test_what_an_ended_child_left_in_shared_memory_is_removed_with_its_server(tmp_path: Path) -> None:
    code = "import os, pathlib; pathlib.Path(f'/dev/shm/__KMP_REGISTERED_LIB_{os.getpid()}_{os.getuid()}').touch(); "
    code += "pathlib.Path('pid').write_text(str(os.getpid()))"
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {code!r}], start_new_session=True)"
    family = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {orphan!r}]); time.sleep(600)"
    process = ServerProcess(Command(argv=[sys.executable, "-c", family], log_path=tmp_path / "log.txt", cwd=tmp_path))
    eventually(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: not is_alive(pid))
    process.stop(grace_s=0)
    assert not list(Path("/dev/shm").glob(f"*_{pid}_*"))


def test_shared_memory_is_looked_at_while_names_in_it_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["psm_1", "else"]
    looks = []
    monkeypatch.setattr(supervisor.os, "listdir", lambda folder: list(names))
    remains = supervisor.Remains()
    monkeypatch.setattr(remains, "look", lambda: looks.append(len(names)))
    for _ in range(5):
        remains.glance()
    assert looks == [2, 2]
    names += ["sem.mp-2"]
    names.remove("psm_1")
    for _ in range(5):
        remains.glance()
    assert looks == [2] * 4


@pytest.mark.parametrize(
    ("name", "pid"),
    [("__KMP_REGISTERED_LIB_4711_0", 4711), ("torch_12_99_0", 12), ("torch_x", 0), ("psm_1a2b", 0), ("vllm_dist_3", 0)],
)
def test_which_process_a_file_is_named_after(name: str, pid: int) -> None:
    assert supervisor.maker_of(name) == pid


def test_a_server_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    with ServerProcess(python(tmp_path, code)) as process:
        eventually(lambda: "up" in process.log_tail())
        process.stop(grace_s=0.2)
    assert process.exit_code() == -signal.SIGKILL


def test_an_ended_server_is_reported_at_once_with_its_log(tmp_path: Path) -> None:
    with (
        ServerProcess(python(tmp_path, "import sys; print('bad flag --x'); sys.exit(7)")) as process,
        pytest.raises(LaunchFailed, match=r"(?s)ended with status 7.*log\.txt ends:.*bad flag --x"),
    ):
        process.wait_ready(f"http://127.0.0.1:{free_port()}/ping", timeout_s=300.0)


@pytest.mark.parametrize(
    "last_words",
    ["MemoryError", "terminate called after throwing an instance of 'std::bad_alloc'", "CUDA error: out of memory"],
)
def test_memory_that_ran_out_is_told_from_other_endings(tmp_path: Path, last_words: str) -> None:
    with (
        ServerProcess(python(tmp_path, f"import sys; sys.exit({last_words!r})")) as process,
        pytest.raises(OutOfMemory, match="ran out of memory"),
    ):
        process.wait_for(lambda: None, 60.0, "answer")


def test_a_server_that_hangs_is_not_ready_at_its_deadline(tmp_path: Path) -> None:
    with (
        ServerProcess(python(tmp_path, "import time; time.sleep(600)")) as process,
        pytest.raises(NotReady, match=r"no answer 200 at http://.* after 0\.2 s"),
    ):
        process.wait_ready(f"http://127.0.0.1:{free_port()}/ping", timeout_s=0.2)


def test_ready_when_the_address_answers_200(tmp_path: Path) -> None:
    port = free_port()
    command = Command(
        argv=[sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)],
        log_path=tmp_path / "log.txt",
        cwd=tmp_path,
    )
    with ServerProcess(command) as process:
        process.wait_ready(f"http://127.0.0.1:{port}/", timeout_s=60.0)
    assert http_status(f"http://127.0.0.1:{port}/") is None


def test_a_program_that_does_not_exist_is_one_sentence(tmp_path: Path) -> None:
    command = Command(argv=["/no/such/program"], log_path=tmp_path / "log.txt")
    with pytest.raises(LaunchFailed, match=r"/no/such/program"), ServerProcess(command) as process:
        process.wait_for(lambda: None, 60.0, "answer")


def test_an_earlier_launch_s_words_in_the_same_log_are_not_this_one_s(tmp_path: Path) -> None:
    for words, kind in (("CUDA out of memory", OutOfMemory), ("no such layer", LaunchFailed)):
        with (
            pytest.raises(LaunchFailed, match=words) as caught,
            ServerProcess(python(tmp_path, f"import sys; sys.exit({words!r})")) as process,
        ):
            process.wait_for(lambda: None, 60.0, "answer")
        assert type(caught.value) is kind
    assert "CUDA" not in str(caught.value)
    assert "CUDA" in process.command.log_path.read_text()


def test_log_tail_of_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "none") == ""
