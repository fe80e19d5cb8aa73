"""The error tree of engines/: every exception that an engine, a server or a launch raises.

EngineError
├── Unavailable      the engine cannot run here: package, driver or device missing (states what to install)
├── ModelInvalid     the model folder is incomplete, damaged or of an unsupported kind
├── SpecInvalid      the engine cannot do what the spec asks (dtype, degree, option)
├── LaunchFailed     the server process ended or never became ready
│   ├── OutOfMemory      it ended because memory ran out
│   └── NotReady         it was still not ready at the deadline
├── PortTaken        the asked port is in use
└── RequestInvalid   one request is malformed (becomes HTTP 400, never ends a process)

Every message states where, what was expected, what came, and what to do next.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of every error an engine raises on purpose."""


class Unavailable(EngineError):
    """The engine cannot run on this machine; the message names what to install."""


class ModelInvalid(EngineError):
    """The model folder cannot be served: a file is missing, damaged or of an unsupported kind."""


class SpecInvalid(EngineError):
    """The engine cannot do what the spec asks."""


class LaunchFailed(EngineError):
    """The server process ended before it was ready; the message holds the last lines of its log."""


class OutOfMemory(LaunchFailed):
    """The server process ended because memory ran out."""


class NotReady(LaunchFailed):
    """The server was still not ready at its deadline."""


class PortTaken(EngineError):
    """The asked port is in use by another process."""


class RequestInvalid(EngineError):
    """One request is malformed; the server answers 400 with this message."""
