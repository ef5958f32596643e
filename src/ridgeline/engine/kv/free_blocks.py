"""Blocks with nothing in them, and which of them a row gets: if it can be, those beside its own.

Nothing but speed depends on it: any block can hold any tokens. An executor that keeps blocks of
successive ids side by side reads a context as one stream if its blocks follow one another
(`native/attention.h`); it says so by `blocks_together`, and has `RunsOfBlocks`. To others it does
not matter, and choosing costs time: `LooseBlocks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

RUN_BLOCKS = 8


class LooseBlocks:
    """A set of block ids below `num_blocks`, all of them at first: what was added last goes first.

    All operations take a time that grows with the number of blocks they move, not with the set.
    """

    def __init__(self, num_blocks: int) -> None:
        self._ids = list(range(num_blocks))[::-1]

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[int]:
        """The blocks; safe while the set changes, and then of no one moment."""
        return iter(tuple(self._ids))

    def add(self, block: int) -> None:
        self._ids.append(block)

    def add_all(self, blocks: Sequence[int]) -> None:
        """One after the other."""
        self._ids += blocks

    def take(self, count: int, after: int = -1) -> list[int]:
        """`count` blocks, of which there must be so many."""
        if not count:
            return []
        taken = self._ids[: -count - 1 : -1]
        del self._ids[-count:]
        return taken

    def take_next(self, after: int) -> int:
        """One block, -1 if there is none: what a step does most."""
        return self._ids.pop() if self._ids else -1

    def fits(self, count: int, after: int = -1) -> bool:
        """Whether nothing would be gained by more free blocks than the `count` that there are."""
        return True

    def check_invariants(self) -> None:
        assert len(set(self._ids)) == len(self._ids)


class RunsOfBlocks:
    """The same, by runs: `RUN_BLOCKS` successive ids.

    A row goes on with the block after its last one, and begins at a run that is wholly free. Where
    there is none, it takes from runs that others left, and only then from those that rows have
    begun and may go on with. A run is short: what a row leaves of its last one is half of it on
    average.
    """

    def __init__(self, num_blocks: int) -> None:
        whole, rest = divmod(num_blocks, RUN_BLOCKS)
        # Of each run, a bit for each free block; the last run may be shorter.
        self._full = [(1 << RUN_BLOCKS) - 1] * whole + [(1 << rest) - 1] * (rest > 0)
        self._masks = list(self._full)
        self._count = num_blocks
        # Runs, what goes next last: wholly free; given back to by those who left; begun.
        self._whole = dict.fromkeys(reversed(range(len(self._full))))
        self._left: dict[int, None] = {}
        self._begun: dict[int, None] = {}

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        """The blocks, lowest first; safe while the set changes, and then of no one moment."""
        for run, mask in enumerate(tuple(self._masks)):
            while mask:
                low = mask & -mask
                yield run * RUN_BLOCKS + low.bit_length() - 1
                mask ^= low

    def add(self, block: int) -> None:
        run, place = divmod(block, RUN_BLOCKS)
        mask = self._masks[run] | 1 << place
        self._masks[run] = mask
        self._count += 1
        self._begun.pop(run, None)
        if mask == self._full[run]:
            self._left.pop(run, None)
            self._whole[run] = None
        else:
            self._left[run] = None

    def add_all(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            self.add(block)

    def take(self, count: int, after: int = -1) -> list[int]:
        """`count` blocks, of which there must be so many, in the order that a row should use them.

        after: the last block of the row, -1: it has none.
        """
        taken: list[int] = []
        while len(taken) < count and (block := self.take_next(after)) >= 0:
            taken.append(block)
            after = block
        self._count -= count - len(taken)
        while len(taken) < count:
            self._take_of(self._next_run(after), count - len(taken), taken)
            after = taken[-1]
        return taken

    def take_next(self, after: int) -> int:
        """The block after `after`, if it is free and of its run, else -1."""
        run, place = divmod(after + 1, RUN_BLOCKS)
        if not place or after < 0:
            return -1
        mask, bit = self._masks[run], 1 << place
        if not mask & bit:
            return -1
        self._count -= 1
        self._masks[run] = mask = mask ^ bit
        if not mask or run not in self._begun:
            self._set(run, mask)
        return after + 1

    def fits(self, count: int, after: int = -1) -> bool:
        """Whether so many can be taken without breaking into runs that others left or began."""
        if after >= 0 and (after + 1) % RUN_BLOCKS:
            run, place = divmod(after + 1, RUN_BLOCKS)
            free = self._masks[run] >> place
            count -= (~free & free + 1).bit_length() - 1
        return count <= len(self._whole) * RUN_BLOCKS

    def check_invariants(self) -> None:
        """What must hold between any two operations."""
        assert self._count == sum(mask.bit_count() for mask in self._masks)
        whole = {run for run, mask in enumerate(self._masks) if mask == self._full[run]}
        some = {run for run, mask in enumerate(self._masks) if mask} - whole
        assert self._whole.keys() == whole
        assert self._left.keys() | self._begun.keys() == some
        assert not self._left.keys() & self._begun.keys()

    def _next_run(self, after: int) -> int:
        """Where a row goes on behind `after`; if that is a whole run, it is not one any more."""
        if self._whole:
            run = (after + 1) // RUN_BLOCKS
            if after >= 0 and not (after + 1) % RUN_BLOCKS and run in self._whole:
                del self._whole[run]
                return run
            return self._whole.popitem()[0]
        return next(iter(self._left or self._begun))

    def _take_of(self, run: int, most: int, taken: list[int]) -> None:
        """Up to `most` of a run's blocks, lowest first; it is not among the whole ones any more."""
        mask, base = self._masks[run], run * RUN_BLOCKS
        if mask == self._full[run]:
            count = min(most, mask.bit_length())
            taken.extend(range(base, base + count))
            mask ^= (1 << count) - 1
        else:
            for _ in range(min(most, mask.bit_count())):
                low = mask & -mask
                taken.append(base + low.bit_length() - 1)
                mask ^= low
        self._set(run, mask)

    def _set(self, run: int, mask: int) -> None:
        """What is left of a run of which somebody took blocks: others may go on with it there."""
        self._masks[run] = mask
        self._left.pop(run, None)
        if mask:
            self._begun[run] = None
        else:
            self._begun.pop(run, None)
