"""A machine's kernel profiles in the cache folder, by machine, instruction set and threads.

What is read is held to be hostile: numbers that are none, or absurd, make a profile none at all.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ridgeline.cost.kernels import KernelProfile

# Of what is timed and how it is priced; kept profiles of another version are not used.
VERSION = 1

_FILE = "kernels.json"
_LARGEST_FILE = 8 << 20
_MOST_TERMS = 1 << 16


def load_profile(
    cache_dir: Path, machine: Mapping[str, str], isa: str, threads: int
) -> KernelProfile | None:
    """What was kept of this machine; None if nothing was, or nothing that can be trusted."""
    fields = _read(cache_dir / _FILE).get(_key(machine, isa, threads))
    return None if fields is None else _profile(fields, isa, threads)


def store_profile(cache_dir: Path, machine: Mapping[str, str], profile: KernelProfile) -> bool:
    """Keeps it in place of what was kept before. False: the cache cannot be written."""
    path = cache_dir / _FILE
    known = _read(path)
    known[_key(machine, profile.isa, profile.threads)] = asdict(profile)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".kernels-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(known, file, indent=1)
        Path(temporary).replace(path)
    except OSError:
        return False
    return True


def _key(machine: Mapping[str, str], isa: str, threads: int) -> str:
    facts = {**machine, "isa": isa, "threads": str(threads), "profile": str(VERSION)}
    return "; ".join(f"{name}={value}" for name, value in sorted(facts.items()))


def _read(path: Path) -> dict[str, dict[str, object]]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            return {}
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, dict) and "prices" in v}


def _profile(fields: Mapping[str, object], isa: str, threads: int) -> KernelProfile | None:
    try:
        measured_at = fields["measured_at"]
        if not isinstance(measured_at, str) or len(measured_at) > 64:
            return None
        return KernelProfile(
            isa=isa,
            threads=threads,
            prices=_numbers(fields["prices"]),
            reading=_numbers(fields["reading"]),
            residuals=_numbers(fields["residuals"]),
            read_rate=_number(fields["read_rate"]),
            barrier_nanoseconds=_number(fields["barrier_nanoseconds"]),
            packed=_numbers(fields["packed"]),
            outside=_numbers(fields["outside"]),
            measured_at=measured_at,
        )
    except (KeyError, ValueError):
        return None


def _numbers(value: object) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > _MOST_TERMS:
        raise ValueError
    return {str(name)[:128]: _number(number) for name, number in value.items()}


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    if not math.isfinite(value) or not 0 <= value < 1e15:
        raise ValueError
    return float(value)
