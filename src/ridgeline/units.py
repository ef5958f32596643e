"""Units, stated once.

A multiply-add is 2 FLOPs. Sizes that people read are decimal (1 GB = 10**9 bytes), as memory
vendors and network links count; memory that an allocator hands out is binary (1 MiB = 2**20 bytes).
"""

from __future__ import annotations

import re

FLOPS_PER_MULTIPLY_ADD = 2

KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12
KIB, MIB, GIB = 2**10, 2**20, 2**30


_SIZES = {"": 1, "b": 1, "kb": KB, "mb": MB, "gb": GB, "tb": TB, "kib": KIB, "mib": MIB, "gib": GIB}


def parse_bytes(text: str) -> int | None:
    """`"500MB"`, `"1.5 GiB"`, `"1000000"` -> bytes; letters of any case. None: it is no size."""
    match = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]{0,3})\s*", text)
    if match is None or (unit := _SIZES.get(match[2].lower())) is None:
        return None
    return round(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit


def format_bytes(num_bytes: float) -> str:
    """`1234567` -> `"1.23 MB"`; three significant digits, decimal units."""
    return _format(num_bytes, 1000.0, ("B", "KB", "MB", "GB", "TB", "PB"))


def format_count(count: float) -> str:
    """`134515008` -> `"135 M"`; three significant digits."""
    return _format(count, 1000.0, ("", "K", "M", "G", "T", "P")).rstrip()


def _format(value: float, base: float, names: tuple[str, ...]) -> str:
    sign, value = ("-" if value < 0 else ""), abs(value)
    index = 0
    while value >= base and index < len(names) - 1:
        value /= base
        index += 1
    digits = 0 if index == 0 and value == int(value) else max(0, 2 - len(str(int(value))) + 1)
    return f"{sign}{value:.{digits}f} {names[index]}"
