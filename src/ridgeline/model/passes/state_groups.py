"""Which layers' caches live and die together, and where each lies: Graph -> StateGroups.

Full attention keeps all tokens of a row, attention with a window the last of them. Each kind is a
group with a block table of its own; all take their blocks from one pool, so a block has one size,
and a group as many blocks a table entry as its layers fill. docs/kv_groups.md has the whole of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ridgeline.model.graph.node import Graph, KvState
from ridgeline.step import BLOCK_TOKENS, ONE_GROUP, BlockGroup

# Padding that a group may have for the sake of fewer blocks; that of a window stops growing.
MOST_PADDING = 0.02
MOST_WINDOWED_PADDING = 0.2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a state lies: column of the table's entries, and numbers of each token before it."""

    column: int
    offset: int


@dataclass(frozen=True, slots=True)
class StateGroups:
    """groups: full attention first, then by window. bytes_per_token, elements_per_token: what a
    block holds for each of its tokens. places: by state name.
    """

    groups: tuple[BlockGroup, ...]
    bytes_per_token: int
    elements_per_token: int
    places: Mapping[str, Place]

    @property
    def column_windows(self) -> tuple[int | None, ...]:
        """Of each block of a table entry."""
        return tuple(group.window for group in self.groups for _ in range(group.blocks))


def state_groups(graph: Graph, block_tokens: int = BLOCK_TOKENS) -> StateGroups:
    """block_tokens: of the blocks. A state of entries takes room for one in each, however few of a
    row's tokens have one.
    """
    by_window: dict[int | None, list[KvState]] = {}
    for state in graph.states:
        by_window.setdefault(state.window, []).append(state)

    def size_of(state: KvState) -> int:
        return state.bytes_within(block_tokens)

    windows = sorted(by_window, key=lambda window: -1 if window is None else window)
    if len(windows) < 2:
        # One kind of layer: a block holds them all.
        states = graph.states
        packed = [_pack(states, sum(map(size_of, states)), size_of)]
        groups: tuple[BlockGroup, ...] = tuple(BlockGroup(window) for window in windows)
    else:
        sizes = [[size_of(s) for s in by_window[window]] for window in windows]
        capacity = _capacity(sizes, windows)
        packed = [_pack(by_window[window], capacity, size_of) for window in windows]
        groups = tuple(
            BlockGroup(window, len(columns))
            for window, columns in zip(windows, packed, strict=True)
        )
    places: dict[str, Place] = {}
    column = most_elements = most_bytes = 0
    for columns in packed:
        for states_of_column in columns:
            offset = 0
            for state in states_of_column:
                places[state.name] = Place(column, offset)
                offset += state.elements_within(block_tokens)
            most_elements = max(most_elements, offset)
            most_bytes = max(most_bytes, sum(map(size_of, states_of_column)))
            column += 1
    return StateGroups(groups or ONE_GROUP, most_bytes, most_elements, places)


def _capacity(sizes: Sequence[Sequence[int]], windows: Sequence[int | None]) -> int:
    """Bytes a token of the block size with the fewest columns whose padding is allowed; if there is
    none, of that with the least padding.
    """
    candidates = set()
    for group in sizes:
        for first in range(len(group)):
            total = 0
            for size in group[first:]:
                total += size
                candidates.add(total)
    least = max(max(group) for group in sizes)
    total_size = sum(map(sum, sizes))

    def rank(capacity: int) -> tuple[bool, float, float]:
        counts = [_count(group, capacity) for group in sizes]
        padding = sum(counts) * capacity / total_size - 1
        allowed = all(
            count * capacity / sum(group) - 1
            <= (MOST_PADDING if window is None else MOST_WINDOWED_PADDING)
            for count, group, window in zip(counts, sizes, windows, strict=True)
        )
        return (not allowed, sum(counts) if allowed else padding, padding)

    return min((c for c in sorted(candidates) if c >= least), key=rank)


def _count(sizes: Sequence[int], capacity: int) -> int:
    """Blocks that these take, in their order."""
    count, left = 0, 0
    for size in sizes:
        if size > left:
            count, left = count + 1, capacity
        left -= size
    return count


def _pack(
    states: Sequence[KvState], capacity: int, size_of: Callable[[KvState], int]
) -> list[list[KvState]]:
    columns: list[list[KvState]] = []
    left = 0
    for state in states:
        if size_of(state) > left or not columns:
            columns.append([])
            left = capacity
        columns[-1].append(state)
        left -= size_of(state)
    return columns
