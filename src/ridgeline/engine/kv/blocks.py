"""KV blocks: who owns which, how many owners, and which prefix each full block holds. Ids only.

A block with no owner stays findable by its prefix until it is needed: the free list is the cache's
eviction order, least recently used first, leaves of a chain before their parents. It does not know
tokens or tensors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """Owns the counts of owners of blocks 0 .. num_blocks - 1 and the table of prefixes."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._num_owners = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict((b, None) for b in range(num_blocks))
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

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
            block, _nothing = self._free.popitem(last=False)
            self._forget(block)
            self._num_owners[block] = 1
            blocks.append(block)
        return tuple(blocks)

    def match(self, prefix_hashes: Iterable[bytes]) -> tuple[int, ...]:
        """The blocks that hold the longest cached run of `prefix_hashes`; takes no ownership."""
        found = []
        for prefix_hash in prefix_hashes:
            block = self._block_of.get(prefix_hash)
            if block is None:
                break
            found.append(block)
        return tuple(found)

    def share(self, blocks: Sequence[int]) -> None:
        """Adds an owner to each of `blocks`, found by `match`."""
        for block in blocks:
            self._free.pop(block, None)
            self._num_owners[block] += 1

    def publish(self, block: int, prefix_hash: bytes) -> None:
        """Says that an owned block now holds the prefix `prefix_hash`; the first such wins."""
        assert self._num_owners[block] > 0
        if prefix_hash not in self._block_of and block not in self._hash_of:
            self._hash_of[block] = prefix_hash
            self._block_of[prefix_hash] = block

    def release(self, blocks: Sequence[int]) -> None:
        """Takes one owner from each of a row's blocks, given in the order of the row."""
        # Last block first, so that a chain is evicted from its leaf.
        for block in reversed(blocks):
            assert self._num_owners[block] > 0
            self._num_owners[block] -= 1
            if self._num_owners[block] == 0:
                self._free[block] = None
                if block not in self._hash_of:
                    self._free.move_to_end(block, last=False)

    def check_invariants(self) -> None:
        """What must hold between any two operations."""
        for block in range(self.num_blocks):
            assert (self._num_owners[block] == 0) == (block in self._free)
            assert self._num_owners[block] >= 0
        assert len(self._hash_of) == len(self._block_of)
        for block, prefix_hash in self._hash_of.items():
            assert self._block_of[prefix_hash] == block

    def _forget(self, block: int) -> None:
        prefix_hash = self._hash_of.pop(block, None)
        if prefix_hash is not None:
            del self._block_of[prefix_hash]
