"""KV blocks: who owns which, how many owners, and what each full block is named. Ids only.

A block with no owner stays findable by its name until it is needed: the free list is the cache's
eviction order, least recently used first, leaves of a chain before their parents. Blocks that more
than one row owns are read only; who must write to one copies it first (`schedule/memory.py`). It
does not know tensors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from ridgeline.engine.kv.prefix import PrefixIndex


class BlockPool:
    """Owns the counts of owners of blocks 0 .. num_blocks - 1 and the index of their names."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.names = PrefixIndex(evicted_names=max(num_blocks, 1024))
        self._num_owners = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict((b, None) for b in range(num_blocks))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def num_owners(self, block: int) -> int:
        return self._num_owners[block]

    def allocate(self, count: int) -> tuple[int, ...] | None:
        """`count` blocks with one owner each and no known content, or None if there are too few."""
        if count > len(self._free):
            return None
        blocks = []
        for _ in range(count):
            block = next(iter(self._free))
            if block in self.names:
                block = self._leaf(block)
                self.names.forget(block)
            del self._free[block]
            self._num_owners[block] = 1
            blocks.append(block)
        return tuple(blocks)

    def share(self, blocks: Sequence[int]) -> None:
        """Adds an owner to each of `blocks`, which the index found or another row has."""
        for block in blocks:
            self._free.pop(block, None)
            self._num_owners[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Takes one owner from each of a row's blocks, given in the order of the row."""
        # Last block first, so that a chain is evicted from its leaf.
        for block in reversed(blocks):
            assert self._num_owners[block] > 0
            self._num_owners[block] -= 1
            if self._num_owners[block] == 0:
                self._free[block] = None
                if block not in self.names:
                    self._free.move_to_end(block, last=False)

    def check_invariants(self) -> None:
        """What must hold between any two operations."""
        for block, owners in enumerate(self._num_owners):
            assert owners >= 0
            assert (owners == 0) == (block in self._free)
        self.names.check_invariants()

    def _leaf(self, block: int) -> int:
        """A free end of the chains that go on from `block`: two rows that computed one prefix at
        the same time can leave its first blocks older than the blocks that follow them.
        """
        while True:
            free = [child for child in self.names.branches(block) if not self._num_owners[child]]
            if not free:
                return block
            block = free[0]
