"""Facts about the machine and its software that explain a number; no names, addresses or secrets."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

from harness.measure.machine.nvml import Gpus
from harness.units import BYTES_PER_MIB

PACKAGES = (
    "ctranslate2", "locust", "numpy", "onnx", "onnxruntime", "optuna", "pyarrow", "rouge-score", "sacrebleu",
    "safetensors", "tokenizers", "torch", "transformers", "uvicorn",
)  # fmt: skip
"""Packages whose version can move a result."""

_FLAGS = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile",
    "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
"""Instruction sets a CPU engine may use (x86 and Arm)."""

_CPU = Path("/sys/devices/system/cpu")


def machine_facts() -> dict[str, object]:
    """What this machine is: JSON-able, the same keys everywhere; an unreadable fact is 'unknown' or absent-as-empty."""
    cpuinfo = _text(Path("/proc/cpuinfo"))
    flags = set((_field(cpuinfo, "flags") or _field(cpuinfo, "Features")).split())
    with Gpus() as gpus:
        gpu_facts = gpus.facts()
    return {
        "cpu_model": _field(cpuinfo, "model name") or platform.machine() or "unknown",
        "cpu_flags": [flag for flag in _FLAGS if flag in flags],
        "cores": os.cpu_count() or 1,
        "cores_usable": len(os.sched_getaffinity(0)),
        "threads_per_core": _threads_per_core(),
        "cpu_quota_cores": _cpu_quota_cores(),
        "memory_mib": _memory_mib(),
        "swap_mib": psutil.swap_memory().total // BYTES_PER_MIB,
        "governor": _text(_CPU / "cpu0/cpufreq/scaling_governor").strip() or "unknown",
        "turbo": _turbo(),
        "numa_nodes": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1,
        "clock_source": _text(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")).strip()
        or "unknown",
        "is_virtual": "hypervisor" in flags,
        "kernel": f"{platform.system()} {platform.release()}",
        "os": _os_name(),
        "python": platform.python_version(),
        "load_1min": os.getloadavg()[0],
        **gpu_facts,
    }


def package_versions() -> dict[str, str]:
    """Package -> installed version, of those that can move a result; absent ones are left out."""
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_commit() -> str:
    """Commit of the source tree this code runs from, '+changes' when it is not clean; '' when it is no checkout."""
    return commit_of(Path(__file__).resolve().parents[3])


def commit_of(root: Path) -> str:
    """Like `git_commit`, of the checkout in `root`."""
    if not (root / ".git").exists():
        return ""
    commit = _git(root, "rev-parse", "HEAD")
    return f"{commit}+changes" if commit and _git(root, "status", "--porcelain", "--untracked-files=no") else commit


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _threads_per_core() -> int:
    siblings = _text(_CPU / "cpu0/topology/thread_siblings_list").strip()
    count = 0
    for part in siblings.split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            count += int(last or first) - int(first) + 1
    return max(1, count)


def _cpu_quota_cores() -> float | None:
    """The container's CPU quota in cores (cgroup v2 cpu.max); None when there is none."""
    quota, _, period = _text(Path("/sys/fs/cgroup/cpu.max")).strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _memory_mib() -> int:
    """Memory of the machine, or the container's limit when that is lower."""
    limit = _text(Path("/sys/fs/cgroup/memory.max")).strip()
    total = psutil.virtual_memory().total // BYTES_PER_MIB
    return min(total, int(limit) // BYTES_PER_MIB) if limit.isdigit() else total


def _turbo() -> str:
    no_turbo = _text(_CPU / "intel_pstate/no_turbo").strip()
    boost = _text(_CPU / "cpufreq/boost").strip()
    if no_turbo:
        return "off" if no_turbo == "1" else "on"
    return {"1": "on", "0": "off"}.get(boost, "unknown")


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"
