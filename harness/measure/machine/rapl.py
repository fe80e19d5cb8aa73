"""Energy of the CPU packages and their memory from the kernel's RAPL counters, where they are readable.

/sys/class/powercap/intel-rapl:N/energy_uj counts microjoules of package N (AMD too) and wraps at max_energy_range_uj;
a sub-domain named dram is outside the package and is added. Most kernels let only root read it (CVE-2020-8694);
virtual machines have none.
"""

from __future__ import annotations

from pathlib import Path

from harness.measure.machine.machine_class import part_cpus

POWERCAP = Path("/sys/class/powercap")


class CpuEnergy:
    """A counter in joules since this object was made, or `unavailable`: why it cannot be read."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self.unavailable = ""
        self._last_uj: dict[Path, int] = {}
        self._total_uj = 0
        if part_cpus():
            self.unavailable = "the counters are of the whole machine, this is a part of it"
            return
        domains = _domains(powercap)
        if not domains:
            self.unavailable = f"no RAPL counter below {powercap} (a virtual machine, or not x86)"
            return
        try:
            self._last_uj = {domain: _read(domain / "energy_uj") for domain in domains}
        except PermissionError as error:
            self.unavailable = f"{error.filename} is readable by root only; allow it with: chmod a+r {error.filename}"
        except (OSError, ValueError) as error:
            self.unavailable = str(error)

    def total_j(self) -> float | None:
        """Joules since the start, all packages; None when they cannot be read. Call it before a counter wraps twice
        (minutes at least)."""
        try:
            for domain, last_uj in self._last_uj.items():
                now_uj = _read(domain / "energy_uj")
                wrapped_uj = _read(domain / "max_energy_range_uj") if now_uj < last_uj else 0
                self._total_uj += now_uj - last_uj + wrapped_uj
                self._last_uj[domain] = now_uj
        except (OSError, ValueError) as error:
            self.unavailable, self._last_uj = str(error), {}
        return self._total_uj / 1e6 if self._last_uj else None


def _domains(powercap: Path) -> list[Path]:
    """Packages (intel-rapl:0) and their dram (intel-rapl:0:1); cores and uncore are inside the package."""
    found = []
    for path in sorted(powercap.glob("intel-rapl:*")):
        name = path / "name"
        kind = name.read_text(encoding="ascii").strip() if name.exists() else ""
        if kind.startswith("package") or kind == "dram":
            found.append(path)
    return found


def _read(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
