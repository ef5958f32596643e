"""Snapshots of recurrent states at block boundaries: which slot holds which, by the blocks' names.

A row's states lie in the slot of its number; the slots behind those are here. One is written by a
copy in a step's plan and found once that step is booked. The least recently used goes first. Copies
run in the order in which they are planned, so a slot may be taken again as soon as that is planned.
"""

from __future__ import annotations

from collections import OrderedDict


class SnapshotPool:
    """Owns slots first .. first + count - 1."""

    def __init__(self, first: int, count: int) -> None:
        self.slots = range(first, first + count)
        self._free = list(self.slots)[::-1]
        self._slot_of: OrderedDict[bytes, int] = OrderedDict()

    def __contains__(self, name: bytes) -> bool:
        return name in self._slot_of

    def __len__(self) -> int:
        return len(self._slot_of)

    def use(self, name: bytes) -> int:
        """The slot that holds the states after the block of this name."""
        self._slot_of.move_to_end(name)
        return self._slot_of[name]

    def take(self) -> int | None:
        """A slot to write to; None: all are being written."""
        if self._free:
            return self._free.pop()
        if not self._slot_of:
            return None
        return self._slot_of.popitem(last=False)[1]

    def add(self, slot: int, name: bytes) -> None:
        """What was written to a slot that was taken can be found; the first of a name is kept."""
        if name in self._slot_of:
            self.give_back(slot)
        else:
            self._slot_of[name] = slot

    def give_back(self, slot: int) -> None:
        """A slot that was taken holds nothing that is of use."""
        self._free.append(slot)

    def check_invariants(self, taken: list[int]) -> None:
        """taken: slots whose steps are planned and not booked."""
        assert sorted([*self._free, *self._slot_of.values(), *taken]) == list(self.slots)
