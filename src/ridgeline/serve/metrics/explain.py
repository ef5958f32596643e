"""Requests that have ended, explained: where each one's time went, and why the cache had no more.

The last so many are kept, each for whoever asked; another key sees nothing of them.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

from ridgeline.engine.kv.prefix import CacheMiss
from ridgeline.engine.ledger import PHASES, Ledger
from ridgeline.serve.core.ask import Ask
from ridgeline.serve.core.events import Done

MAX_KEPT = 1000


class Explanations:
    """Owned by the event loop."""

    def __init__(self, most: int = MAX_KEPT) -> None:
        self._most = most
        self._kept: OrderedDict[str, tuple[str, dict[str, Any]]] = OrderedDict()

    def add(self, ask: Ask, done: Done) -> None:
        """A hook of `Core.done_hooks`."""
        name = done.output.request_id
        self._kept[name] = ask.service.tenant, explained(done, time.monotonic())
        self._kept.move_to_end(name)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def get(self, request_id: str, tenant: str) -> dict[str, Any] | None:
        """None as well for another tenant's: it must not learn that there is one."""
        found = self._kept.get(request_id)
        return None if found is None or found[0] != tenant else found[1]


def explained(done: Done, delivered: float) -> dict[str, Any]:
    """JSON of an ended request. delivered: when its last piece was given to the client's
    connection; what passed since the engine ended it is a phase of its own.
    """
    output = done.output
    miss = output.cache_miss
    if miss is not None and miss.kind == "salt":
        # That somebody else's cache has the same tokens is theirs to know: as if nobody's had.
        miss = CacheMiss("new", 0)
    return {
        "request_id": output.request_id,
        "prompt_tokens": len(output.prompt_token_ids),
        "cached_tokens": output.num_cached_tokens,
        "cache_miss": None if miss is None else {"kind": miss.kind, "position": miss.position},
        "answers": [
            {
                "index": answer.index,
                "finish_reason": answer.finish_reason,
                "completion_tokens": len(answer.token_ids),
                "seed": answer.seed,
                **_spelt(ledger, max(0.0, delivered - ledger.end)),
            }
            for answer, ledger in zip(output.outputs, output.ledgers, strict=True)
        ],
    }


def _spelt(ledger: Ledger, delivery: float) -> dict[str, Any]:
    seconds = {**ledger.seconds, "delivery": delivery}
    whole = sum(seconds.values())
    meaning = {**PHASES, "delivery": "from the engine's end of it until its last piece was written"}
    return {
        "total_seconds": whole,
        "steps": ledger.steps,
        "preemptions": ledger.preemptions,
        "forced_tokens": ledger.forced,
        "phases": [
            {
                "phase": name,
                "seconds": value,
                "percent": 100 * value / whole if whole > 0 else 0.0,
                "what": meaning[name],
            }
            for name, value in seconds.items()
        ],
        "prefill_chunks": [
            {"tokens": c.tokens, "step_seconds": c.seconds, "own_seconds": c.own_seconds}
            for c in ledger.chunks
        ],
    }
