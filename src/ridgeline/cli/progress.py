"""A download's progress on the terminal: one bar on stderr, or one line a stage where there is no
terminal.

Nothing is imported or drawn until the first report, so a model that is already here pays nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich import progress as rich_progress

    from ridgeline.model.weights.sources import Progress


@contextmanager
def show_progress(title: str) -> Iterator[Progress]:
    """A `Progress` to hand to `resolve` or `pull`; the bar ends with the block."""
    display = _Display(title)
    try:
        yield display.report
    finally:
        display.close()


class _Display:
    """Owns the bar, and what it last said."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._stage = ""
        self._bar: rich_progress.Progress | None = None
        self._task: rich_progress.TaskID | None = None
        self._terminal = sys.stderr.isatty()

    def report(self, stage: str, done_bytes: int, total_bytes: int | None) -> None:
        if not self._terminal:
            if stage != self._stage:
                sys.stderr.write(f"{self._title}: {stage}\n")
                sys.stderr.flush()
            self._stage = stage
            return
        if self._bar is None:
            self._bar = _bar()
            self._bar.start()
        if stage != self._stage or self._task is None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            text = f"{self._title}: {stage}"
            self._task = self._bar.add_task(text, total=total_bytes, completed=done_bytes)
            self._stage = stage
        self._bar.update(self._task, total=total_bytes, completed=done_bytes)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar() -> rich_progress.Progress:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
