"""How much memory this machine has left, as its system tells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that a new process can take: MemAvailable, or what the control group leaves if that is
    less. Pages of files that the group has read count as its use, but are given back on demand.

    root: where proc and sys lie.
    """
    facts: Mapping[str, int] = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.endswith("kB")
    }
    available = facts["MemAvailable"]
    group = root / "sys/fs/cgroup"
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        if limit == "max":
            return available
        left = int(limit) - used + _reclaimable_bytes(group, used)
    except (OSError, ValueError):
        return available
    return min(available, max(left, 0))


def _reclaimable_bytes(group: Path, used: int) -> int:
    """File pages that need not be written first, and kernel objects that can be made again."""
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        stat = {name: int(value) for name, value in (line.split() for line in lines)}
    except (OSError, ValueError):
        return 0
    files = stat.get("active_file", 0) + stat.get("inactive_file", 0)
    unwritten = stat.get("file_dirty", 0) + stat.get("file_writeback", 0)
    return min(max(files - unwritten, 0) + stat.get("slab_reclaimable", 0), used)
