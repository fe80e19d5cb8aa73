"""The program that answers a search on the machine of a place: `python -m harness.places.at_place VERB REPLY OWNER`.

The request is JSON on standard input, the reply a file; a refusal is one sentence in REPLY.refused. It dies with its
owner, the process that started it, from its first moment on: its imports take seconds on a busy machine. The engine
that it launched dies with it (engines/processes/supervisor.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

from engines.processes.supervisor import dies_with


def main() -> int:
    """The exit status; 0: REPLY is there."""
    verb, reply, owner = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if not dies_with(owner):
        return 1
    from harness.places.answers import answer

    return answer(verb, reply)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # an Interrupted as well: what was measured so far is given up with its order
        sys.exit(130)
