"""Documents of one kind, so many of each tenant: its oldest go for its own newer ones alone."""

from __future__ import annotations

import threading
from typing import Any

from ridgeline.serve.batches.journal import Documents

MAX_KEPT = 2000


class Shelf:
    """Each document has its `id` and its `tenant`; who was written last goes last. Its calls touch
    the disk: threads are for them, any number. What a server before has left counts as well: whose
    it is, is read once, with the first document that is written.
    """

    def __init__(self, documents: Documents, kind: str, most: int = MAX_KEPT) -> None:
        self._documents = documents
        self._kind = kind
        self._most = most
        self._lock = threading.Lock()
        # Of each tenant its names, the one that was written last behind all others.
        self._names: dict[str, dict[str, None]] | None = None

    def write(self, document: dict[str, Any]) -> None:
        """On return it is on the disk. StorageFault if it cannot be."""
        name = document["id"]
        self._documents.write(self._kind, name, document)
        with self._lock:
            own = self._all().setdefault(document["tenant"], {})
            own.pop(name, None)
            own[name] = None
            gone = list(own)[: max(0, len(own) - self._most)]
            for old in gone:
                del own[old]
        for old in gone:
            self._documents.remove(self._kind, old)

    def read(self, tenant: str, name: str) -> dict[str, Any]:
        """KeyError where the tenant has none such."""
        document = self._documents.read(self._kind, name)
        if document["tenant"] != tenant:
            raise KeyError(name)
        return document

    def remove(self, tenant: str, name: str) -> None:
        """KeyError where the tenant has none such."""
        self.read(tenant, name)
        with self._lock:
            if self._names is not None:
                self._names.get(tenant, {}).pop(name, None)
        self._documents.remove(self._kind, name)

    def _all(self) -> dict[str, dict[str, None]]:
        if self._names is None:
            self._names = {}
            for name in self._documents.names(self._kind):
                try:
                    tenant = self._documents.read(self._kind, name)["tenant"]
                except KeyError:  # it is no document of ours, or has gone
                    continue
                self._names.setdefault(tenant, {})[name] = None
        return self._names
