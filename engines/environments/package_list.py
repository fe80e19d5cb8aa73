"""The pinned package list of an engine's environment, `<engine>.txt`: pip's own lines, and what pip has no words for.

A list is read with the lists it includes (`-r`). Two comments are more than comments:

* `# dyno: alone`: the environment sees nothing of this one and holds exactly what is listed: pip looks for no further
  dependencies, so what is not listed is left out, and a version may differ from ours. A line with `--hash` is taken
  from no other file than that one.
* `# dyno: takes ...`: its size and the time it takes, shown before an installation begins.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

LISTS = Path(__file__).parent
_ALONE, _TAKES = "# dyno: alone", "# dyno: takes "


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageList:
    """One list. `requirements` are pip's lines, in order; `takes` is '' where nobody has measured it."""

    requirements: tuple[str, ...]
    is_alone: bool
    takes: str

    @property
    def pins(self) -> dict[str, str]:
        """Package -> version."""
        pairs = (line.split(" --hash")[0].split(";")[0].strip().partition("==") for line in self.requirements)
        return {name.partition("[")[0]: version for name, _, version in pairs}

    @property
    def hashed(self) -> tuple[str, ...]:
        """The lines that name the only file they may be installed from."""
        return tuple(line for line in self.requirements if "--hash" in line)

    @property
    def digest(self) -> str:
        """Changes with every requirement, also with a hash."""
        return hashlib.sha256(json.dumps(self.requirements).encode()).hexdigest()[:12]


def has_list(engine: str) -> bool:
    """Whether the engine has a list, and so can have an environment."""
    return (LISTS / f"{engine}.txt").is_file()


def package_list(engine: str) -> PackageList:
    """The engine's list; see `has_list`."""
    return read_list(LISTS / f"{engine}.txt")


def read_list(path: Path) -> PackageList:
    """The list in a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return PackageList(
        requirements=tuple(_requirements(path)),
        is_alone=_ALONE in lines,
        takes=next((line.removeprefix(_TAKES) for line in lines if line.startswith(_TAKES)), ""),
    )


def _requirements(path: Path) -> list[str]:
    found: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            found += _requirements(path.with_name(line.removeprefix("-r ").strip()))
        elif line and not line.startswith("#"):
            found.append(line)
    return found
