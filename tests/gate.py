"""Steps that wait until a test lets them.

A tiny model's answer is over before anyone could look at it, and on a busy machine nobody looks for
a long time: what must still be running while something else happens is held here, and not by sleep.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ridgeline import LLM
from ridgeline.step import Masks, StepPlan

PATIENCE_SECONDS = 120


def hold(llm: LLM, held: Callable[[], bool], tokens: int) -> None:
    """While `held()`, no row gets longer than so many tokens; 0: no step runs."""
    executor = llm.session.engine._executor
    submit = executor.submit

    def waiting(plan: StepPlan, *masks: Masks | None) -> None:
        if max(row.num_context for row in plan.rows) >= tokens:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while held():
                assert time.monotonic() < deadline, "nobody opened the gate"
                time.sleep(0.001)
        submit(plan, *masks)

    executor.submit = waiting  # type: ignore[method-assign]


def endless(llm: LLM) -> None:
    """Answers end by their length only, and not by whatever random weights say."""
    llm.session._samplings.stop_ids = lambda params: frozenset()  # type: ignore[method-assign]


def gate(llm: LLM, tokens: int = 0) -> threading.Event:
    """Until the event is set, no row gets longer than so many tokens, and no answer ends sooner."""
    endless(llm)
    free = threading.Event()
    hold(llm, lambda: not free.is_set(), tokens)
    return free
