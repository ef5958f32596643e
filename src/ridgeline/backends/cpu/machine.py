"""This machine, for figures beside its limits: who it is and how fast it reads memory."""

from __future__ import annotations

import platform
from pathlib import Path
from statistics import median

from ridgeline.backends.cpu import _native

ROUNDS = 15


def identity() -> dict[str, str]:
    """CPU model, core count and L3 size; empty values where Linux does not say."""
    facts = {"machine": platform.machine(), "model name": "", "cpu family": "", "model": ""}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return facts
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in facts and not facts[name.strip()]:
            facts[name.strip()] = value.strip()
    facts["processors"] = str(sum(line.startswith("processor") for line in lines))
    return facts


def read_bandwidth(num_bytes: int, threads: int) -> float:
    """GB/s, median of 15 passes over `num_bytes` in huge pages after a warm one."""
    return median(_native.measure_read_bandwidth(num_bytes, threads, ROUNDS))
