"""How a worker talks with benchmarks/peers.py: a line of JSON in, a line of JSON out.

Runs in each engine's own Python, so it needs nothing but the standard library. The first line out
is the worker's facts (versions); then each command `{"do": "run", "prompts": [[ids]], "outputs":
[count]}` is answered by `{"seconds": wall, "first_seconds": last first token or null}`. A worker
ends when its input does, and with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

Command = Callable[[dict[str, Any]], dict[str, Any]]
_PR_SET_PDEATHSIG = 1


def options() -> dict[str, Any]:
    """What the parent said of the model: `model`, `threads`, `context`, `rows`."""
    chosen: dict[str, Any] = json.loads(sys.argv[1])
    return chosen


def serve(start: Callable[[dict[str, Any]], tuple[dict[str, Any], dict[str, Command]]]) -> None:
    """Starts the engine, says its facts, and answers commands until the input ends.

    start(options) gives the facts and a function per command. What the engine prints goes to
    stderr: stdout is the parent's line.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    begin = time.perf_counter()
    facts, commands = start(options())
    facts["load_seconds"] = time.perf_counter() - begin
    print(json.dumps(facts), file=replies)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(commands[command["do"]](command)), file=replies)
