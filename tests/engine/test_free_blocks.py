"""Which free blocks a row gets: those beside its own, as far as there are any."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from ridgeline.engine.kv.blocks import BlockPool
from ridgeline.engine.kv.free_blocks import RUN_BLOCKS, LooseBlocks, RunsOfBlocks
from ridgeline.step import BlockGroup


def beside(blocks: list[int]) -> float:
    """The share of steps from a block to the next that go to its neighbour, of those that can."""
    steps = [b == a + 1 for a, b in pairwise(blocks) if (a + 1) % RUN_BLOCKS]
    return sum(steps) / len(steps)


def test_rows_that_grow_by_turns_stay_each_in_their_runs() -> None:
    free = RunsOfBlocks(40 * RUN_BLOCKS)
    rows = [free.take(3) for _ in range(8)]
    for _ in range(30):
        for row in rows:
            row += free.take(1, row[-1])
    assert all(beside(row) == 1 for row in rows)
    assert len(free) == 40 * RUN_BLOCKS - 8 * 33
    free.check_invariants()


def test_what_is_left_of_runs_is_used_before_there_is_nothing() -> None:
    free = RunsOfBlocks(3 * RUN_BLOCKS + 5)
    rows = [free.take(4) for _ in range(4)]  # a run each, the last one shorter
    assert sorted(row[0] for row in rows) == [0, RUN_BLOCKS, 2 * RUN_BLOCKS, 3 * RUN_BLOCKS]
    for block in rows[1]:
        free.add(block)
    # A run that is whole again; then one that somebody left blocks of; then those of others.
    assert free.take(1) == [RUN_BLOCKS]
    free.add(rows[2][1])
    assert free.take(2)[0] == rows[2][1]
    rest = free.take(len(free))
    assert len(set(rest)) == len(rest)
    assert not set(rest) & {*rows[0], *rows[3]}
    assert len(free) == 0
    assert list(free) == []
    free.check_invariants()


@pytest.mark.parametrize("kind", [RunsOfBlocks, LooseBlocks])
@pytest.mark.parametrize("num_blocks", [1, 15, 16, 17, 100, 256])
def test_every_block_is_somewhere_once(
    num_blocks: int, kind: type[RunsOfBlocks | LooseBlocks]
) -> None:
    rng = random.Random(num_blocks)
    free, held = kind(num_blocks), list[int]()
    for _ in range(2000):
        if rng.random() < 0.5 and len(free):
            after = rng.choice(held) if held and rng.random() < 0.7 else -1
            if (beside := free.take_next(after)) >= 0:
                assert beside == after + 1 or kind is LooseBlocks
                held.append(beside)
            elif len(free):
                held += free.take(rng.randint(1, len(free)), after)
        elif held:
            for _ in range(rng.randint(1, len(held))):
                free.add(held.pop(rng.randrange(len(held))))
        free.check_invariants()
        assert sorted([*held, *free]) == list(range(num_blocks))


def test_columns_of_a_group_go_on_each_beside_itself() -> None:
    pool = BlockPool(40 * RUN_BLOCKS, (BlockGroup(None, 1), BlockGroup(None, 3)), True, 16)
    first = list(pool.allocate(2, 1) or ())
    for _ in range(12):
        first += pool.allocate(1, 1, first[-1]) or ()
    for column in range(3):
        assert beside([pool.blocks_of(entry)[column] for entry in first]) == 1
    pool.check_invariants()


@pytest.mark.parametrize(("most", "share"), [(60, 0.95), (12, 0.65)])
def test_a_cache_that_is_full_still_gives_runs(most: int, share: float) -> None:
    """Rows come, grow by turns and go; what they leave is kept by name until it is needed."""
    rng, size = random.Random(5), 8192
    pool = BlockPool(size, blocks_together=RUN_BLOCKS)
    rows: list[list[int]] = []
    lengths: dict[int, int] = {}
    names = iter(range(10**6))
    shares: list[float] = []
    for step in range(100_000):
        if len(rows) < 64:
            rows.append(list(pool.allocate(rng.randint(1, most // 2)) or ()))
            lengths[id(rows[-1])] = rng.randint(most // 2, most)
        row = rng.choice(rows)
        if len(row) < lengths[id(row)]:
            row += pool.allocate(1, 0, row[-1]) or ()
            continue
        parent = b""
        for block in row[:-1]:
            name = next(names).to_bytes(16, "little")
            pool.names.add(block, name, parent, (), b"")
            parent = name
        pool.release(row)
        rows.remove(row)
        if step > 60_000:
            shares.append(beside(row))
    assert sum(shares) / len(shares) > share
    assert pool.num_free - pool.num_cached < size * 0.13  # the rest is kept, or in use
    pool.check_invariants()


def test_where_it_does_not_matter_nothing_is_forgotten_early() -> None:
    pool = BlockPool(512)
    row = list(pool.allocate(512) or ())
    for block in row:
        pool.names.add(block, block.to_bytes(16, "little"), b"", (), b"")
    pool.release(row)
    assert pool.num_cached == 512
    pool.allocate(3)
    assert pool.num_cached == 512 - 3
