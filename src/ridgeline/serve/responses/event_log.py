"""The events of a response that runs on its own: followed by any number of readers, from any place.

An event's place is its `sequence_number`. A server that answers a response again from its beginning
comes to the same events, one by one, so that a reader may go on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from ridgeline.serve.core.http import compact, sent


class EventLog:
    """Owned by the event loop. Events as they go over the wire, the first at place 0."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._done = False
        self._news = asyncio.Event()

    def add(self, events: Iterable[dict[str, Any]]) -> None:
        self.events += map(wire, events)
        self._ring()

    def close(self) -> None:
        """Nothing more comes."""
        self._done = True
        self._ring()

    async def follow(self, place: int) -> AsyncIterator[list[str]]:
        """Those from `place` on, in batches as they come."""
        while True:
            if place < len(self.events):
                batch = self.events[place:]
                place = len(self.events)
                yield batch
            elif self._done:
                return
            else:
                await self._news.wait()

    def _ring(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def wire(event: dict[str, Any]) -> str:
    return sent(compact(event), event["type"])
