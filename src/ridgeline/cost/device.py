"""What a machine can do at most, measured once and kept by the machine's identity."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_LARGEST_FOOTPRINT = 2**30


@dataclass(frozen=True, slots=True)
class ReadRoof:
    """GB/s at which `threads` threads together read `footprint_bytes` again and again."""

    footprint_bytes: int
    threads: int
    gigabytes_per_second: float


def read_roof(
    cache_dir: Path,
    machine: Mapping[str, str],
    threads: int,
    num_bytes: int,
    measure: Callable[[int, int], float],
    reached: float = 0.0,
) -> ReadRoof:
    """The read bandwidth for a working set of `num_bytes`: from the cache, else measured and kept.

    machine identifies the hardware: another one has another file. measure(bytes, threads) gives
    GB/s. reached: GB/s that a program has come to: a kept figure below it was taken while the
    machine was busy, so it is measured again and the higher one kept. A cache that cannot be
    written is not an error: the next run measures again.
    """
    footprint = _footprint(num_bytes)
    path = cache_dir / "roofs.json"
    key = "; ".join(f"{name}={value}" for name, value in sorted(machine.items()))
    entry = f"read {footprint} bytes, {threads} threads"
    known = _load(path)
    value = known.get(key, {}).get(entry)
    if not isinstance(value, float) or value <= 0:
        value = 0.0
    if value <= reached:
        value = max(value, measure(footprint, threads))
        known.setdefault(key, {})[entry] = value
        _store(path, known)
    return ReadRoof(footprint, threads, value)


def _footprint(num_bytes: int) -> int:
    """The next power of two, from 32 MiB to 1 GiB: bandwidth changes slowly between them."""
    footprint = 32 * 2**20
    while footprint < min(num_bytes, _LARGEST_FOOTPRINT):
        footprint *= 2
    return footprint


def _load(path: Path) -> dict[str, dict[str, object]]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, dict)}


def _store(path: Path, known: dict[str, dict[str, object]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".roofs-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(known, file, indent=1)
        Path(temporary).replace(path)
    except OSError:
        return
