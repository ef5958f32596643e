"""What was measured of machines, kept as JSON in the cache folder: a file of entries by name.

What is read is held to be hostile: a file that is none, or too large, has no entries.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def read_entries(path: Path, *, having: str, largest: int) -> dict[str, dict[str, object]]:
    """The entries that have the field `having`; others are left out, and gone when the file is next
    written. largest: bytes of a file that is read at all.
    """
    try:
        if path.stat().st_size > largest:
            return {}
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, dict) and having in v}


def write_entries(path: Path, entries: Mapping[str, Mapping[str, object]]) -> bool:
    """The file as a whole, or not at all. False: the cache cannot be written, which is no error:
    whoever comes next measures again.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(entries, file, indent=1)
        Path(temporary).replace(path)
    except OSError:
        return False
    return True


def entry_name(machine: Mapping[str, str], **more: object) -> str:
    """A machine's identity, and what else an entry holds for, as one text."""
    facts = {**machine, **{name: str(value) for name, value in more.items()}}
    return "; ".join(f"{name}={value}" for name, value in sorted(facts.items()))
