"""How much memory this machine has left, as its system tells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def available_bytes() -> int:
    """Memory that a new process can take: MemAvailable, or what the control group leaves."""
    facts: Mapping[str, int] = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.endswith("kB")
    }
    available = facts["MemAvailable"]
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return available
    return available if limit == "max" else min(available, int(limit) - used)
