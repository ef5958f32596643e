"""KV blocks: who owns which, how many owners, and what each full entry is named. Ids only.

What a row's table has for `block_tokens` tokens in a group of layers is an entry: one block or,
where the group's layers fill several, that many, known by the first of them. All groups draw from
one pool. An entry with no owner stays findable by its name until its blocks are needed: least
recently used first, leaves of a full chain before their parents; where it helps the executor, some
are given up early, so that a row finds blocks that lie beside each other (`free_blocks.py`).
Entries that more than one row owns are read only; who must write to one copies it first
(`schedule/memory.py`). It does not know tensors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import chain

from ridgeline.engine.kv.free_blocks import RUN_BLOCKS, LooseBlocks, RunsOfBlocks
from ridgeline.engine.kv.names import NameTable
from ridgeline.engine.kv.prefix import PrefixIndex
from ridgeline.step import ONE_GROUP, BlockGroup


class BlockPool:
    """Owns the counts of owners of blocks 0 .. num_blocks - 1 and the tables of their names.

    names: of the first group's entries, which also says why a prompt was not found, if `explains`.
    blocks_together: as the executor keeps them (`engine/executor.py`).
    """

    def __init__(
        self,
        num_blocks: int,
        groups: Sequence[BlockGroup] = ONE_GROUP,
        explains: bool = True,
        blocks_together: int = 1,
    ) -> None:
        self.num_blocks = num_blocks
        self.groups = tuple(groups)
        self.names = PrefixIndex(num_blocks, max(num_blocks, 1024), explains)
        self._tables: list[PrefixIndex | NameTable] = [self.names]
        self._tables += [NameTable() for _ in self.groups[1:]]
        self._num_owners = [0] * num_blocks
        has_runs = blocks_together >= RUN_BLOCKS
        self._free = RunsOfBlocks(num_blocks) if has_runs else LooseBlocks(num_blocks)
        # Of a large pool: what is evicted at once, and how much may be free, for the sake of runs.
        self._evicted_together = min(4 * RUN_BLOCKS, num_blocks // 256)
        self._most_free = num_blocks // 8
        self._cached: OrderedDict[int, None] = OrderedDict()  # entries that only a name finds
        self._num_cached_blocks = 0
        # Of groups whose entries are several blocks, and of all groups but the first.
        self._others_of: dict[int, tuple[int, ...]] = {}
        self._group_of: dict[int, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._free) + self._num_cached_blocks

    @property
    def num_cached(self) -> int:
        """Blocks of entries that have no owner and can still be found."""
        return self._num_cached_blocks

    def states(self) -> bytearray:
        """What each block is: 0 empty; 1 kept for its name alone; 2 in use; 3 in use by several. A
        copy that others may take while this changes; it may then be half of before and of after.
        """
        found = bytearray(b"\2" * self.num_blocks)
        for block in self._free:
            found[block] = 0
        kept = tuple(self._cached)
        shared = [entry for entry, owners in enumerate(tuple(self._num_owners)) if owners > 1]
        for state, entries in ((1, kept), (3, shared)):
            for entry in entries:
                for block in self.blocks_of(entry):
                    found[block] = state
        return found

    def num_owners(self, block: int) -> int:
        return self._num_owners[block]

    def blocks_of(self, entry: int) -> tuple[int, ...]:
        """All blocks of an entry, in the order of its columns."""
        return (entry, *self._others_of.get(entry, ()))

    def allocate(self, count: int, group: int = 0, after: int = -1) -> tuple[int, ...] | None:
        """`count` entries with one owner each and no known content, or None if there are too few
        blocks. after: the row's last entry in the group, beside which they had best be; -1: none.
        """
        width = self.groups[group].blocks
        if count == width == 1 and (block := self._free.take_next(after)) >= 0:
            self._num_owners[block] = 1
            if group:
                self._group_of[block] = group
            return (block,)
        needed = count * width
        missing = needed - len(self._free)
        if missing > 0:
            if missing > self._num_cached_blocks:
                return None
            self._evict(missing)
        if count == 0:
            return ()
        if not self._free.fits(needed, after) and len(self._free) < self._most_free:
            # Chains that are old lie in runs of their own.
            self._evict(min(self._evicted_together, self._num_cached_blocks))
        entries = tuple(self._free.take(count, after))
        if width > 1:
            before = self._others_of.get(after, (-1,) * (width - 1))
            columns = [self._free.take(count, last) for last in before]
            self._others_of.update(zip(entries, zip(*columns, strict=True), strict=True))
        if group:
            for entry in entries:
                self._group_of[entry] = group
        for entry in entries:
            self._num_owners[entry] = 1
        return entries

    def find(self, names: Iterable[bytes], group: int) -> list[int | None]:
        """The entries of these names in a group."""
        return [self._tables[group].entry(name) for name in names]

    def add_name(self, entry: int, name: bytes, group: int) -> None:
        """Names an entry of a group other than the first; a name's first entry keeps it."""
        table = self._tables[group]
        assert isinstance(table, NameTable)
        table.add(entry, name)

    def share(self, entries: Sequence[int]) -> None:
        """Adds an owner to each of `entries`, which were found or another row has."""
        owners = self._num_owners
        for entry in entries:
            if owners[entry] == 0:
                del self._cached[entry]
                self._num_cached_blocks -= self._width(entry)
            owners[entry] += 1

    def release(self, entries: Sequence[int]) -> None:
        """Takes one owner from each of a row's entries in one group, given in the row's order."""
        owners = self._num_owners
        if self.groups == ONE_GROUP:
            self._release_blocks(entries)
            return
        if not entries:
            return
        group = self._group_of.get(entries[0], 0)
        cached, table, width = self._cached, self._tables[group], self.groups[group].blocks
        # Last entry first, so that a chain is evicted from its leaf.
        for entry in reversed(entries):
            left = owners[entry] - 1
            assert left >= 0
            owners[entry] = left
            if not left:
                if entry in table:
                    cached[entry] = None
                    self._num_cached_blocks += width
                else:
                    self._empty(entry)

    def _release_blocks(self, blocks: Sequence[int]) -> None:
        """`release` where every entry is one block of the one group: what a step does most."""
        owners, cached, free = self._num_owners, self._cached, self._free
        names = self.names.by_block
        num_cached = len(cached)
        for block in reversed(blocks):
            left = owners[block] - 1
            assert left >= 0
            owners[block] = left
            if not left:
                if names[block] is not None:
                    cached[block] = None
                else:
                    free.add(block)
        self._num_cached_blocks += len(cached) - num_cached

    def check_invariants(self) -> None:
        """What must hold between any two operations."""
        self._free.check_invariants()
        seen: set[int] = set(self._free)
        owned = [block for block, owners in enumerate(self._num_owners) if owners]
        assert all(owners >= 0 for owners in self._num_owners)
        entries = list(chain(owned, self._cached))
        for entry in entries:
            blocks = self.blocks_of(entry)
            assert len(blocks) == self.groups[self._group_of.get(entry, 0)].blocks
            assert seen.isdisjoint(blocks), "a block is in two entries"
            seen.update(blocks)
        assert seen == set(range(self.num_blocks)), "a block is lost"
        assert set(self._group_of) | set(self._others_of) <= set(entries)
        assert all(self._num_owners[entry] == 0 for entry in self._cached)
        assert all(entry in self._table_of(entry) for entry in self._cached)
        assert self._num_cached_blocks == sum(len(self.blocks_of(e)) for e in self._cached)
        for table in self._tables:
            table.check_invariants()

    def _evict(self, num_blocks: int) -> None:
        """Forgets entries that only a name finds until so many more blocks are free."""
        enough = len(self._free) + num_blocks
        if self.groups == ONE_GROUP:
            self._evict_blocks(num_blocks)
            return
        cached, free, group_of, others_of = (
            self._cached, self._free, self._group_of, self._others_of,
        )  # fmt: skip
        while len(free) < enough:
            entry, _nothing = cached.popitem(last=False)
            group = group_of.pop(entry, 0)
            if not group and (leaf := self._leaf(entry)) != entry:
                cached[entry] = None
                cached.move_to_end(entry, last=False)
                del cached[leaf]
                entry = leaf
            self._tables[group].forget(entry)
            self._num_cached_blocks -= self.groups[group].blocks
            for block in (entry, *others_of.pop(entry, ())):
                free.add(block)

    def _evict_blocks(self, num_blocks: int) -> None:
        """The same where every entry is one block of the one group."""
        cached, names = self._cached, self.names
        oldest, forget_leaf = cached.popitem, names.forget_leaf
        evicted = []
        for _ in range(num_blocks):
            block, _nothing = oldest(last=False)
            if not forget_leaf(block):
                if (leaf := self._leaf(block)) != block:
                    cached[block] = None
                    cached.move_to_end(block, last=False)
                    del cached[leaf]
                    block = leaf
                names.forget(block)
            evicted.append(block)
        self._free.add_all(evicted)
        self._num_cached_blocks -= num_blocks

    def _empty(self, entry: int) -> None:
        """The blocks of an entry without owner and name have nothing in them."""
        for block in (entry, *self._others_of.pop(entry, ())):
            self._free.add(block)
        self._group_of.pop(entry, None)

    def _width(self, entry: int) -> int:
        return self.groups[self._group_of.get(entry, 0)].blocks

    def _table_of(self, entry: int) -> PrefixIndex | NameTable:
        return self._tables[self._group_of.get(entry, 0)]

    def _leaf(self, entry: int) -> int:
        """A free end of the chains that go on from `entry`: two rows that computed one prefix at
        the same time can leave its first blocks older than the blocks that follow them.
        """
        if self.groups[0].window is not None:
            return entry
        while True:
            free = [child for child in self.names.branches(entry) if not self._num_owners[child]]
            if not free:
                return entry
            entry = free[0]
