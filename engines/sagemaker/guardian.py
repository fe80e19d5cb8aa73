"""The guardian: a small process that outlives dyno just long enough to delete the SageMaker endpoints it created.

Run as `python -m engines.sagemaker.guardian JOURNAL LIFETIME_S PARENT`. It ends quietly when 'done' arrives on its
standard input. It deletes everything the journal names when the parent dies without a word (kill -9 included, and also
before this process had begun to watch), and when the lifetime is over (a budget, or an endpoint that somebody forgot).
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from engines.errors import EngineError
from engines.processes.child_environment import child_environment
from engines.sagemaker.aws import Aws
from engines.sagemaker.journal import KEPT, Journal
from engines.sagemaker.removal import remove

POLL_S = 1.0
SETTLE_S = 2.0
"""From the parent's death until what it started (s5cmd) is dead too and its last request has arrived: an object that
came after the deletion would stay."""
MAX_LIFETIME_S = 6 * 3600.0
"""However large the budget: nothing measured here takes longer."""


class Guarded:
    """A journal with its guardian; `end` deletes what is left and lets the guardian go."""

    def __init__(self, journal: Journal, aws: Aws, process: subprocess.Popen[bytes]) -> None:
        self.journal = journal
        self._aws = aws
        self._process = process

    @classmethod
    def begin(cls, launch_id: str, aws: Aws, lifetime_s: float = MAX_LIFETIME_S) -> Guarded:
        """Open the journal and start its guardian, before anything is created."""
        journal = Journal.begin(launch_id, aws.region)
        arguments = [str(journal.path), str(lifetime_s), str(os.getpid())]
        argv = [sys.executable, "-m", "engines.sagemaker.guardian", *arguments]
        env = {**os.environ, **child_environment()}  # whatever lies in the folder it is started from
        log_path = journal.path.with_suffix(".log")
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=env
            )
        return cls(journal, aws, process)

    def end(self) -> None:
        """Delete what is left. Raises Unavailable when something could not be deleted; then the journal stays.

        Interrupted meanwhile (a second Ctrl-C), it leaves the rest to the guardian.
        """
        try:
            remove(self._aws, self.journal)
        except EngineError:
            self.release()
            raise
        except BaseException:
            if self._process.stdin is not None:
                self._process.stdin.close()  # without a word: to the guardian this process has ended
            raise
        self.release()

    def keep(self) -> None:
        """Leave everything where it is; the journal states that this was meant, so that a clean-up does not take it."""
        self.journal.note(KEPT, "asked for by keep")
        self.release()

    def release(self) -> None:
        """Release the guardian without deleting anything."""
        try:
            self._process.communicate(b"done\n", timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if not self.journal.path.exists():
            self.journal.path.with_suffix(".log").unlink(missing_ok=True)


def main(journal_path: str, lifetime_s: float, parent: int) -> int:
    """Watch, and delete if it must be."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    journal = Journal(Path(journal_path))
    why = _watch(parent, time.monotonic() + lifetime_s)
    if why is not None and journal.remaining() and not journal.is_kept():
        journal.note("expired", why)
        time.sleep(SETTLE_S)
        remove(Aws(journal.region), journal)
    if why is not None:
        journal.close()
    if not journal.path.exists():  # also after 'done': the parent may have been interrupted while it waited for us
        journal.path.with_suffix(".log").unlink(missing_ok=True)
    return 0


def _watch(parent: int, deadline: float) -> str | None:
    """None when the parent sent 'done'; else why it is time to delete."""
    received = b""
    while True:
        is_closed = False
        if select.select([0], [], [], POLL_S)[0]:
            data = os.read(0, 64)
            received += data
            is_closed = not data
        if b"done" in received:
            return None
        if is_closed or os.getppid() != parent:
            return "the process that launched it has ended"
        if time.monotonic() >= deadline:
            return "its lifetime is over (budget, or forgotten)"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
