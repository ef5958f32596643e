"""How a graph's states part into groups of blocks of one size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ridgeline.model.graph.kv_format import BF16, KV_FORMATS, KvFormat
from ridgeline.model.graph.node import Graph, KvState, Node
from ridgeline.model.graph.ops import KvWrite
from ridgeline.model.opened import describe
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.shard import shard
from ridgeline.model.passes.state_groups import Place, StateGroups, state_groups
from ridgeline.step import ONE_GROUP, BlockGroup

PUBLISHED = json.loads((Path(__file__).parent / "data" / "published_models.json").read_text())


def graph(*states: tuple[int | None, int], formats: tuple[KvFormat, ...] = (BF16,)) -> Graph:
    """Layers of a window and a number of heads each."""
    nodes = []
    for index, (window, heads) in enumerate(states):
        kept = formats[index % len(formats)]
        state = KvState(f"{index}", heads, 8, 8, window, kept)
        nodes.append(Node(f"write{index}", KvWrite(), (), (), state=state))
    return Graph("states", tuple(nodes), (), (), 4096)


def check_places(of: Graph, layout: StateGroups) -> None:
    """Every state has its place in a column of its window, beside the others of its block."""
    taken: dict[int, int] = {}
    for state in of.states:
        place = layout.places[state.name]
        assert layout.column_windows[place.column] == state.window
        assert place.offset == taken.get(place.column, 0), "in order, without gaps"
        taken[place.column] = place.offset + state.elements_per_token
    assert max(taken.values()) == layout.elements_per_token
    assert set(taken) == set(range(len(layout.column_windows)))


def test_one_kind_of_layer_is_one_block() -> None:
    for window in (None, 64):
        layout = state_groups(graph(*[(window, 2)] * 7))
        assert layout.groups == (BlockGroup(window),)
        assert (layout.elements_per_token, layout.bytes_per_token) == (7 * 32, 7 * 64)
    assert state_groups(graph(*[(None, 2)] * 7)).groups == ONE_GROUP
    assert state_groups(graph()).groups == ONE_GROUP


@pytest.mark.parametrize(
    ("full", "windowed", "groups", "layers_a_block"),
    [(3, 15, (1, 5), 3), (12, 12, (1, 1), 12), (5, 29, (1, 6), 5), (10, 52, (1, 6), 10)],
)
def test_few_blocks_and_little_padding(
    full: int, windowed: int, groups: tuple[int, int], layers_a_block: int
) -> None:
    """The layers of gemma3 270M, gpt-oss 20B, gemma3 4B and 27B."""
    made = graph(*[(512, 1)] * windowed, *[(None, 1)] * full)
    layout = state_groups(made)
    assert layout.groups == (BlockGroup(None, groups[0]), BlockGroup(512, groups[1]))
    assert layout.bytes_per_token == layers_a_block * 32
    check_places(made, layout)


def test_layers_of_unequal_sizes_and_formats() -> None:
    made = graph((None, 8), (64, 2), (64, 2), (None, 8), (64, 4), (32, 1), (32, 3))
    layout = state_groups(made)
    assert [group.window for group in layout.groups] == [None, 32, 64]
    check_places(made, layout)
    mixed = graph((None, 2), (64, 2), (None, 2), (64, 2), formats=(KV_FORMATS["int8"], BF16))
    layout = state_groups(mixed)
    check_places(mixed, layout)
    columns: dict[int, int] = {}
    for state in mixed.states:
        column = layout.places[state.name].column
        columns[column] = columns.get(column, 0) + state.bytes_per_token
    assert max(columns.values()) == layout.bytes_per_token


def test_a_real_model_fused_and_cut_over_ranks() -> None:
    whole = describe(PUBLISHED["google/gemma-3-4b-it"]["config"])
    layout = state_groups(fuse(whole))
    assert layout.groups == (BlockGroup(None, 1), BlockGroup(1024, 6))
    assert layout.places["layers.5.kv"] == Place(0, 0)
    check_places(whole, layout)
    for rank in shard(whole, 2):
        assert state_groups(rank).groups == layout.groups
