"""A wheel of this dynamometer, packed from what is installed or checked out here, its built library included."""

from __future__ import annotations

import hashlib
import sysconfig
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import engines
import harness
from engines.t5 import cuda

_ROOT = Path(engines.__file__ or "").resolve().parents[1]
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_wheel(folder: Path) -> Path:
    """The wheel, written into `folder`: the same bytes for the same files. Raises PackageNotFoundError where this
    dynamometer is not installed, not even from its checkout."""
    known = distribution("dynamometer")
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    info, tag = f"dynamometer-{known.version}.dist-info", f"py3-none-{platform}"
    path = folder / f"dynamometer-{known.version}-{tag}.whl"
    record = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in _content(known, info, tag):
            digest = urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            record.append(f"{name},sha256={digest},{len(content)}\n")
            wheel.writestr(_entry(name), content, zipfile.ZIP_DEFLATED)
        wheel.writestr(_entry(f"{info}/RECORD"), "".join([*record, f"{info}/RECORD,,\n"]), zipfile.ZIP_DEFLATED)
    return path


def _content(known: Distribution, info: str, tag: str) -> Iterator[tuple[str, bytes]]:
    for package in (engines, harness):
        root = Path(package.__file__ or "").resolve().parent
        for path in sorted(each for each in root.rglob("*") if each.is_file() and "__pycache__" not in each.parts):
            yield f"{package.__name__}/{path.relative_to(root)}", path.read_bytes()
    kernels = Path(cuda.__file__).resolve().with_name("kernels")
    if not kernels.is_dir():  # a checkout, whose build would install them there
        for name, content in cuda.sources().items():
            yield f"{kernels.relative_to(_ROOT)}/{name}", content
    yield f"{info}/METADATA", (known.read_text("METADATA") or "").encode()
    yield f"{info}/entry_points.txt", (known.read_text("entry_points.txt") or "").encode()
    yield f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: dyno\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o644 << 16
    return entry
