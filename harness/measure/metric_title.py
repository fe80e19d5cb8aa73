"""The title of a metric, made from its name: 'gpu_power_w' is 'GPU power'."""

from __future__ import annotations

_WORDS = {
    "p50": "P50", "p90": "P90", "p95": "P95", "p99": "P99", "p999": "P99.9", "ttft": "first token",
    "ttfo": "first output token",
    "itl": "between tokens", "tpot": "per output token", "gpu": "GPU", "cpu": "CPU", "util": "utilisation",
}  # fmt: skip
_UNIT_ENDINGS = ("_ms", "_rps", "_mib", "_w", "_j")


def title_of(name: str) -> str:
    """'gpu_power_w' -> 'GPU power'."""
    bare = next((name.removesuffix(end) for end in _UNIT_ENDINGS if name.endswith(end)), name)
    words = " ".join(_WORDS.get(word, word) for word in bare.split("_") if word != "frac")
    return words[:1].upper() + words[1:]
