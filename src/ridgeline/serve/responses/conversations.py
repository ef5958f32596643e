"""Conversations that the server keeps: items that responses are made of, and are added to.

Each lies as a document beside stored responses, and as safely: what a caller was told is on the
disk. A response adds what it was asked and what it answered when it ends, once, whatever happened
to the servers that answered it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ridgeline.errors import RequestError
from ridgeline.serve.batches.journal import Documents
from ridgeline.serve.responses.shelf import Shelf

KIND = "conversations"
MAX_ITEMS = 10_000
# Responses of which a conversation remembers that they were added: those that may be begun again.
MAX_REMEMBERED = 1000
_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "local_shell_call": "lsh",
    "compaction": "cmp",
}

Item = dict[str, Any]


class Conversations:
    """By id and tenant. Its calls touch the disk: threads are for them. All raise KeyError where
    the tenant has no such conversation. new_id: makes ids, of a prefix.
    """

    def __init__(self, documents: Documents, new_id: Callable[[str], str]) -> None:
        self._shelf = Shelf(documents, KIND)
        self._new_id = new_id
        self._lock = threading.Lock()

    def create(self, tenant: str, items: Sequence[Item], metadata: dict[str, str]) -> Item:
        name = self._new_id("conv_")
        document: dict[str, Any] = {
            "id": name,
            "created_at": int(time.time()),
            "tenant": tenant,
            "metadata": metadata,
            "items": [],
            "added": [],
        }
        self._append(document, items)
        require_room(document["items"])
        self._shelf.write(document)
        return told(document)

    def get(self, tenant: str, name: str) -> Item:
        return told(self._shelf.read(tenant, name))

    def items(self, tenant: str, name: str) -> list[Item]:
        """Each with an id; the oldest first."""
        found: list[Item] = self._shelf.read(tenant, name)["items"]
        return found

    def update(self, tenant: str, name: str, metadata: dict[str, str]) -> Item:
        with self._lock:
            document = self._shelf.read(tenant, name) | {"metadata": metadata}
            self._shelf.write(document)
        return told(document)

    def add(self, tenant: str, name: str, items: Sequence[Item]) -> list[Item]:
        """The items as they are kept."""
        with self._lock:
            document = self._shelf.read(tenant, name)
            added = self._append(document, items)
            require_room(document["items"])
            self._shelf.write(document)
        return added

    def take(self, tenant: str, response: dict[str, Any], given: Sequence[Item]) -> None:
        """Adds what a response that has ended was asked, and what it answered, if it is of a
        conversation that is still there.
        """
        of = response.get("conversation")
        if of is None or response["status"] not in ("completed", "incomplete"):
            return
        with self._lock:
            try:
                document = self._shelf.read(tenant, of["id"])
            except KeyError:
                return
            if response["id"] in document["added"]:
                return
            self._append(document, [*given, *response["output"]])
            document["added"] = [*document["added"], response["id"]][-MAX_REMEMBERED:]
            self._shelf.write(document)

    def remove_item(self, tenant: str, name: str, item_id: str) -> Item:
        """What is left. KeyError, too, where it has no such item."""
        with self._lock:
            document = self._shelf.read(tenant, name)
            kept = [item for item in document["items"] if item["id"] != item_id]
            if len(kept) == len(document["items"]):
                raise KeyError(item_id)
            document["items"] = kept
            self._shelf.write(document)
        return told(document)

    def remove(self, tenant: str, name: str) -> None:
        with self._lock:
            self._shelf.remove(tenant, name)

    def _append(self, document: dict[str, Any], items: Sequence[Item]) -> list[Item]:
        taken = {item["id"] for item in document["items"]}
        added = []
        for item in items:
            own = item.get("id")
            if own is None or own in taken:
                own = self._new_id(f"{_PREFIXES.get(item['type'], 'item')}_")
            taken.add(own)
            added.append({**item, "id": own})
        document["items"] = [*document["items"], *added]
        return added


def require_room(items: Sequence[Item], field: str = "items") -> None:
    """Before a response is begun: what it answers is kept even where that goes above the limit."""
    if len(items) > MAX_ITEMS:
        raise RequestError(
            field, f"a conversation has at most {MAX_ITEMS} items; begin another, or delete some"
        )


def told(document: dict[str, Any]) -> dict[str, Any]:
    """A conversation as its clients read it."""
    return {
        "id": document["id"],
        "object": "conversation",
        "created_at": document["created_at"],
        "metadata": document["metadata"],
    }
