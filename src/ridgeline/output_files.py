"""Files that a command writes: what cannot be written is told before the work, and what is written
is whole or not there, also where Ctrl-C or a full disk comes between.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from ridgeline.errors import RidgelineError


def check_outputs(paths: Mapping[str, Path | None]) -> None:
    """By option. Raises RidgelineError for what could not be written: before minutes of work."""
    for option, path in paths.items():
        if path is None:
            continue
        folder = path.resolve().parent
        why = None
        if not folder.is_dir():
            why = "there is no such folder"
        elif path.is_dir():
            why = "it is a folder"
        elif not os.access(path if path.exists() else folder, os.W_OK):
            why = "this user may not"
        if why is not None:
            raise RidgelineError(f"{option}: {path} cannot be written: {why}")


def write_output(path: Path, content: str | bytes) -> None:
    """RidgelineError where it cannot be written; what was there is then still there."""
    data = content.encode() if isinstance(content, str) else content
    try:
        target = path.resolve()  # what a link names
        if (path.exists() and not path.is_file()) or not os.access(target.parent, os.W_OK):
            path.write_bytes(data)  # a device, a pipe, or a file of a folder that is not ours
            return
        part = target.with_name(f".{target.name[:200]}.{os.getpid()}.part")
        try:
            part.write_bytes(data)
            if target.exists():
                shutil.copymode(target, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise RidgelineError(f"{path} cannot be written: {error.strerror or error}") from error


def write_figure(figure: Any, path: Path, dpi: int = 140) -> None:
    """A figure of matplotlib's, in the format that the path's ending says."""
    drawn = BytesIO()
    try:
        figure.savefig(drawn, dpi=dpi, format=path.suffix.removeprefix(".") or "png")
    except ValueError as error:
        raise RidgelineError(f"{path} cannot be written: {error}") from error
    write_output(path, drawn.getvalue())
