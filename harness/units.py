"""Units: conversion and printing of nanoseconds, bytes and rates."""

from __future__ import annotations

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
BYTES_PER_MIB = 1 << 20
BYTES_PER_GIB = 1 << 30


def ms_from_ns(duration_ns: float) -> float:
    """Milliseconds."""
    return duration_ns / NS_PER_MS


def mib_from_bytes(size_bytes: float) -> float:
    """Mebibytes (2^20 bytes)."""
    return size_bytes / BYTES_PER_MIB


def format_duration(duration_s: float) -> str:
    """'8.2 s', '3 min 05 s' or '2 h 10 min'."""
    if duration_s < 60:
        return f"{duration_s:.1f} s"
    minutes, seconds = divmod(round(duration_s), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
