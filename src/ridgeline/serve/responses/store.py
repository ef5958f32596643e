"""Responses that are kept: for `get`, and for conversations that go on from one.

Each lies as a document in the server's state folder, with the items that led to it. A tenant's
oldest go when it has too many.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ridgeline.serve.batches.journal import Documents, write_whole
from ridgeline.serve.core.core import Core
from ridgeline.serve.responses.shelf import Shelf

KIND = "responses"
EVENTS = ".events"


def documents_of(core: Core) -> Documents:
    """The server's state folder; where it has none, one that goes with the server."""
    folder = core.options.state
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="ridgeline-serve-"))
        weakref.finalize(core, shutil.rmtree, folder, True)
    return Documents(folder)


class Store:
    """What is kept, by id and tenant. Its calls touch the disk: threads are for them. Of responses
    that may be streamed again, events lie beside them and go with them.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._shelf = Shelf(documents, KIND)

    def keep(self, tenant: str, response: dict[str, Any], items: list[dict[str, Any]]) -> None:
        """items: all input items, those of responses before among them."""
        document = {
            "id": response["id"],
            "created_at": response["created_at"],
            "tenant": tenant,
            "response": response,
            "items": items,
        }
        self._shelf.write(document)

    def get(self, tenant: str, response_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """A response and the items that led to it; KeyError where the tenant has none such."""
        document = self._shelf.read(tenant, response_id)
        return document["response"], document["items"]

    def keep_events(self, response_id: str, events: Sequence[str]) -> None:
        """As they went over the wire; kept before the response is."""
        write_whole(self._documents.path(KIND, response_id, EVENTS), "".join(events).encode())

    def events(self, tenant: str, response_id: str) -> list[str] | None:
        """None: it was not made to be streamed. KeyError where the tenant has none such."""
        self.get(tenant, response_id)
        try:
            data = self._documents.path(KIND, response_id, EVENTS).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return [f"{event}\n\n" for event in data.split("\n\n")[:-1]]

    def remove(self, tenant: str, response_id: str) -> None:
        self._shelf.remove(tenant, response_id)
