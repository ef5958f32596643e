"""Names of entries, where nothing is asked but which entry a name has."""

from __future__ import annotations


class NameTable:
    """Owns a table of names: a name has one entry, an entry at most one name."""

    def __init__(self) -> None:
        self._name_of: dict[int, bytes] = {}
        self._entry_of: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._name_of)

    def __contains__(self, entry: int) -> bool:
        return entry in self._name_of

    def entry(self, name: bytes) -> int | None:
        return self._entry_of.get(name)

    def add(self, entry: int, name: bytes) -> None:
        """Names an entry; the first entry of a name keeps it."""
        if name not in self._entry_of and entry not in self._name_of:
            self._name_of[entry] = name
            self._entry_of[name] = entry

    def forget(self, entry: int) -> None:
        """The entry is given to somebody else."""
        name = self._name_of.pop(entry, None)
        if name is not None:
            del self._entry_of[name]

    def check_invariants(self) -> None:
        assert len(self._name_of) == len(self._entry_of)
        assert all(self._entry_of[name] == entry for entry, name in self._name_of.items())
