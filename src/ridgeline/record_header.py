"""What a record's first line says of its engine: written when there is one, read for one like it.

The lines behind it are `engine/record.py`'s. Does not know backends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from weakref import finalize

from ridgeline.cost.device import Device
from ridgeline.cost.sizes import Sizes
from ridgeline.engine.record import Recorder
from ridgeline.errors import RequestError, RidgelineError
from ridgeline.options import Options


def start_record(
    path: Path, options: Options, sizes: Sizes, *, model: str, kv_format: str, device: Device | None
) -> Recorder:
    """A recorder that has written the header; its file is closed with it. kv_format: what keys and
    values are kept in. device: whose limits the engine goes by. Raises RequestError where `path`
    cannot be written.
    """
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise RequestError("record", f"cannot be written: {error}") from None
    header = {
        "model": model,
        "backend": options.backend,
        "kv_format": kv_format,
        "policy": options.policy,
        "max_waiting": options.max_waiting,
        "itl_target": options.itl_target,
        "itl_steps": options.itl_steps,
        "rate_share": options.rate_share,
        "wave_seconds": options.wave_seconds,
        "forced_spans": options.forced_spans,
        "device": None if device is None else asdict(device),
        "sizes": {
            "context_length": sizes.max_context,
            "memory": sizes.memory,
            "max_rows": sizes.max_rows,
            "max_tokens_per_step": sizes.max_tokens_per_step,
        },
    }
    finalize(recorder := Recorder(file, header), file.close)
    return recorder


def replay_options(header: Mapping[str, Any]) -> tuple[str, Options]:
    """The model and the options of a record's header: an engine of the same sizes. Raises
    RidgelineError for a header that lacks them.
    """
    try:
        sizes = header["sizes"]
        return str(header["model"]), Options(
            backend=str(header["backend"]),
            context_length=int(sizes["context_length"]),
            memory=int(sizes["memory"]),
            max_rows=int(sizes["max_rows"]),
            max_tokens_per_step=int(sizes["max_tokens_per_step"]),
            kv_format=header.get("kv_format"),
            policy=str(header.get("policy", "fcfs")),
            max_waiting=header.get("max_waiting"),
            itl_target=header.get("itl_target"),
            itl_steps=header.get("itl_steps"),
            rate_share=header.get("rate_share"),
            wave_seconds=header.get("wave_seconds"),
            forced_spans=header.get("forced_spans") is True,  # older ones knew of none
        )
    except (KeyError, TypeError, ValueError):
        raise RidgelineError("record: its header does not say which engine it was") from None


def replay_device(header: Mapping[str, Any]) -> Device | None:
    """Whose limits a record's engine went by; None if it went by none. Raises RidgelineError."""
    device = header.get("device")
    try:
        return None if device is None else Device(**device)
    except TypeError:
        raise RidgelineError("record: its header does not say by which limits it went") from None
