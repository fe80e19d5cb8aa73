"""The program that answers a search on a place's machine: `python -m harness.places.at_place VERB REPLY OWNER [PART]`.

The request is JSON on standard input, the reply a file; a refusal is one sentence in REPLY.refused. It dies with its
owner, the process that started it, from its first moment on: its imports take seconds on a busy machine. The engine
that it launched dies with it (engines/processes/supervisor.py). On a part of a split machine it takes the part's cores
before anything that it imports can start a thread on others.
"""

from __future__ import annotations

import sys
from pathlib import Path

from engines.processes.supervisor import dies_with


def main() -> int:
    """The exit status; 0: REPLY is there."""
    verb, reply, owner, part = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    if not dies_with(owner):
        return 1
    if part:
        from harness.errors import EnvironmentFault
        from harness.places.lease import take

        try:
            take(*part)
        except EnvironmentFault as error:
            reply.with_suffix(".refused").write_text(str(error), encoding="utf-8")
            return 1
    from harness.places.answers import answer

    return answer(verb, reply)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # an Interrupted as well: what was measured so far is given up with its order
        sys.exit(130)
