"""A sign of life on a terminal while a model is packed for this machine's kernels."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PATIENCE_SECONDS = 0.7
_ERASE_LINE = "\r\033[K"


@contextmanager
def show_spinner(text: str) -> Iterator[None]:
    """Turns on stderr until the block ends, if that is a terminal and the block takes a while."""
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    spinner = threading.Thread(target=_spin, args=(text, done), daemon=True)
    spinner.start()
    try:
        yield
    finally:
        done.set()
        spinner.join()


def _spin(text: str, done: threading.Event) -> None:
    start = time.monotonic()
    if done.wait(PATIENCE_SECONDS):
        return
    turn = 0
    while not done.wait(0.1):
        seconds = time.monotonic() - start
        sys.stderr.write(f"{_ERASE_LINE}{FRAMES[turn % len(FRAMES)]} {text} {seconds:.0f} s")
        sys.stderr.flush()
        turn += 1
    sys.stderr.write(_ERASE_LINE)
    sys.stderr.flush()
