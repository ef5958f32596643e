"""A machine's kernel profiles in the cache folder, by machine, build, instruction set and threads.

What is read is held to be hostile: numbers that are none, or absurd, make a profile none at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ridgeline.cost.cold_weights import NO_AMOUNTS, Draw
from ridgeline.cost.kept import entry_name, read_entries, write_entries
from ridgeline.cost.kernels import KernelProfile

# Of what is timed and how it is priced; kept profiles of another version are not used.
VERSION = 8

# Says of a machine which build of the kernels was timed: prices of another build are
# not used, and gone when the same machine is timed again.
KERNELS = "kernels"

_FILE = "kernels.json"
_LARGEST_FILE = 8 << 20
_MOST_TERMS = 1 << 16


def load_profile(
    cache_dir: Path, machine: Mapping[str, str], isa: str, threads: int
) -> KernelProfile | None:
    """What was kept of this machine; None if nothing was, or nothing that can be trusted."""
    fields = _entries(cache_dir).get(_key(machine, isa, threads))
    return None if fields is None else _profile(fields, isa, threads)


def store_profile(cache_dir: Path, machine: Mapping[str, str], profile: KernelProfile) -> bool:
    """Keeps it in place of what was kept before. False: the cache cannot be written."""
    key = _key(machine, profile.isa, profile.threads)
    known = {k: v for k, v in _entries(cache_dir).items() if _any_build(k) != _any_build(key)}
    known[key] = asdict(profile)
    return write_entries(cache_dir / _FILE, known)


def _entries(cache_dir: Path) -> dict[str, dict[str, object]]:
    return read_entries(cache_dir / _FILE, having="prices", largest=_LARGEST_FILE)


def _key(machine: Mapping[str, str], isa: str, threads: int) -> str:
    return entry_name(machine, isa=isa, threads=threads, profile=VERSION)


def _any_build(key: str) -> str:
    return "; ".join(fact for fact in key.split("; ") if not fact.startswith(f"{KERNELS}="))


def _profile(fields: Mapping[str, object], isa: str, threads: int) -> KernelProfile | None:
    try:
        measured_at = fields["measured_at"]
        if not isinstance(measured_at, str) or len(measured_at) > 64:
            return None
        pace = _number(fields["pace"])
        if not pace:
            return None
        return KernelProfile(
            isa=isa,
            threads=threads,
            prices=_numbers(fields["prices"]),
            cold=_cold(fields["cold"]),
            residuals=_numbers(fields["residuals"]),
            read_rate=_number(fields["read_rate"]),
            barrier_nanoseconds=_number(fields["barrier_nanoseconds"]),
            pace=pace,
            packed=_numbers(fields["packed"]),
            streamed=_numbers(fields["streamed"]),
            lost=_numbers(fields["lost"], most=1.0),
            outside=_numbers(fields["outside"]),
            measured_at=measured_at,
        )
    except (KeyError, TypeError, ValueError):
        return None


def _numbers(value: object, most: float = 1e15) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > _MOST_TERMS:
        raise ValueError
    found = {str(name)[:128]: _number(number) for name, number in value.items()}
    if any(number > most for number in found.values()):
        raise ValueError
    return found


def _cold(value: object) -> tuple[Draw, ...]:
    if not isinstance(value, list) or len(value) != len(NO_AMOUNTS):
        raise ValueError
    found = []
    for one in value:
        share, most = _number(one["share"]), one["most"]
        known = None if most is None else _number(most)
        if not share or known == 0:
            raise ValueError
        found.append(Draw(share, known))
    return tuple(found)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    if not math.isfinite(value) or not 0 <= value < 1e15:
        raise ValueError
    return float(value)
