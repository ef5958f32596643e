"""Settings that come from outside the program: the only file that reads `os.environ`.

| variable | what it sets | default |
| --- | --- | --- |
| `RIDGELINE_CACHE` | models, roofs, packed weights | `ridgeline` in `$XDG_CACHE_HOME`, `~/.cache` |
| `RIDGELINE_OFFLINE` | `1`: never open a network connection | off |
| `RIDGELINE_ISA` | CPU kernels: `amx`, `avx512`, `avx2` or `portable` | the best that the CPU has |
| `RIDGELINE_KEEP_PACKED` | `0`: keep neither packed weights nor learned screens | on |
| `RIDGELINE_THREADS` | threads of the CPU backend | the cores that this process may use |
| `OTEL_EXPORTER_OTLP_ENDPOINT` | `ridgeline serve`: where spans go | nowhere |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ridgeline.errors import RidgelineError

ISAS = ("amx", "avx512", "avx2", "portable")


@dataclass(frozen=True, slots=True)
class Settings:
    """One frozen answer to "what did the environment say"; commands override it with
    `dataclasses.replace`.
    """

    cache_dir: Path
    offline: bool
    isa: str | None
    threads: int
    keep_packed: bool = True
    otel_endpoint: str | None = None


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this process. Raises `RidgelineError` naming a variable whose value is not
    allowed.
    """
    isa = environ.get("RIDGELINE_ISA") or None
    if isa is not None and isa not in ISAS:
        raise RidgelineError(
            f"RIDGELINE_ISA={isa!r} is not a kernel set; use one of {', '.join(ISAS)}"
        )
    threads_text = environ.get("RIDGELINE_THREADS", "")
    if threads_text and not (threads_text.isdecimal() and 1 <= int(threads_text) <= 1024):
        raise RidgelineError(
            f"RIDGELINE_THREADS={threads_text!r} is not a whole number from 1 to 1024"
        )
    cache_text = environ.get("RIDGELINE_CACHE", "")
    if cache_text:
        cache_dir = Path(cache_text).expanduser()
    else:
        cache_dir = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ridgeline"
    return Settings(
        cache_dir=cache_dir,
        offline=environ.get("RIDGELINE_OFFLINE", "") not in ("", "0"),
        isa=isa,
        threads=int(threads_text) if threads_text else len(os.sched_getaffinity(0)),
        keep_packed=environ.get("RIDGELINE_KEEP_PACKED", "") != "0",
        otel_endpoint=environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or None,
    )
