"""Seconds of collectives: equal to the formulas by hand, in their limits, and never falling."""

from __future__ import annotations

import numpy as np
import pytest

from ridgeline.cost.accelerator import load_accelerator
from ridgeline.cost.collectives import (
    COLLECTIVES,
    FIXED,
    HOP,
    Routes,
    all_reduce_seconds,
    collective_seconds,
    exchange_seconds,
    message_of,
    routes_of,
    shots_of,
)
from ridgeline.cost.engines import ENGINES, ERA_TITLES, ERAS, era_of, held_tokens

LATENCY, RATE = 4e-6, 315e9
SIZES = np.geomspace(1.0, 4e9, 60)


def seconds(message: float, ways: int, in_switch: bool = False) -> float:
    found = all_reduce_seconds(
        np.array([message]), np.array([float(ways)]), RATE, LATENCY, np.array([in_switch])
    )
    return float(found[0])


def test_a_small_message_takes_one_shot() -> None:
    for ways in (2, 4, 8):
        assert seconds(1e-3, ways) == pytest.approx(LATENCY, rel=1e-6)
        assert seconds(1e4, ways) == pytest.approx(LATENCY + (ways - 1) * 1e4 / RATE, rel=1e-12)


def test_a_large_message_takes_the_bandwidth() -> None:
    for ways in (2, 4, 8):
        assert seconds(1e12, ways) == pytest.approx(2 * (ways - 1) / ways * 1e12 / RATE, rel=1e-4)
    assert seconds(1e12, 8, in_switch=True) == pytest.approx(9 / 8 * 1e12 / RATE, rel=1e-4)
    # Four ranks do not use the switch, and beyond a domain nothing but ring and tree is there.
    assert seconds(1e12, 4, in_switch=True) == seconds(1e12, 4)
    ring = FIXED * LATENCY + HOP * LATENCY * 30 + 2 * 15 / 16 * 1e12 / RATE
    assert seconds(1e12, 16) == pytest.approx(ring, rel=1e-12)
    tree = FIXED * LATENCY + HOP * LATENCY * 8 + 2 * 1e3 / RATE
    assert seconds(1e3, 16) == pytest.approx(tree, rel=1e-12)


def test_one_rank_waits_for_nobody() -> None:
    assert seconds(1e9, 1) == 0.0


def test_more_bytes_and_more_ranks_never_take_less() -> None:
    ranks = (2, 4, 8, 16, 32, 64)
    for in_switch in (False, True):
        table = np.array([[seconds(size, n, in_switch) for size in SIZES] for n in ranks])
        assert (np.diff(table, axis=1) >= 0).all()
    # The switch makes eight faster than four; without it each doubling costs.
    table = np.array([[seconds(size, n) for size in SIZES] for n in ranks])
    assert (np.diff(table, axis=0) >= -1e-15).all()


@pytest.mark.parametrize(
    ("chip", "ways", "floor", "largest"),
    [
        ("h100-sxm", 2, 3.1e-6, 3.24e-3),
        ("h100-sxm", 4, 3.2e-6, 4.53e-3),
        ("h100-sxm", 8, 3.5e-6, 4.01e-3),
        ("b200-sxm", 2, 4.7e-6, 1.90e-3),
        ("b200-sxm", 4, 4.8e-6, 2.55e-3),
        ("b200-sxm", 8, 5.0e-6, 2.60e-3),
    ],
)
def test_near_what_was_measured(chip: str, ways: int, floor: float, largest: float) -> None:
    """Floors and times of 2^29 BF16 values: aiconfigurator-core 0.12.0, custom all-reduce of
    TensorRT-LLM 1.2 and 1.3 (2026-11-21); with 70 % of the link's bandwidth."""
    found = load_accelerator(chip).chip()
    assert found.in_switch
    made = all_reduce_seconds(
        np.array([1.0, 2.0**30]),
        np.array([float(ways)] * 2),
        0.7 * found.link(ways),
        floor,
        np.array([True, True]),
    )
    assert float(made[0]) == pytest.approx(floor, rel=0.01)
    assert float(made[1]) == pytest.approx(largest, rel=0.3)


def test_ring_bytes_are_the_message() -> None:
    ways = np.array([2.0, 8.0, 1.0])
    sent = 2 * (ways - 1) / ways * 1e6
    assert message_of(sent, ways) == pytest.approx([1e6, 1e6, 0.0])


def test_engines_choose_by_tokens_or_bytes_where_their_own_kernels_are_taken() -> None:
    row = 2 * 8192.0
    tokens = np.array([1.0, 31.0, 32.0, 64.0, 128.0, 129.0, 512.0, 513.0])
    message, yes = tokens * row, np.ones(8, np.bool_)
    assert shots_of(message, tokens, np.full(8, 8.0), yes).tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    at_8 = shots_of(message, tokens, np.full(8, 8.0), ~yes).tolist()
    assert at_8 == [1, 2, 2, 2, 2, 2, 2, 0]
    at_4 = shots_of(message, tokens, np.full(8, 4.0), ~yes).tolist()
    assert at_4 == [1, 1, 2, 2, 2, 2, 2, 0]


def test_a_chosen_kernel_takes_its_own_time() -> None:
    for shots, wanted in ((1, LATENCY + 7e6 / RATE), (2, 2 * LATENCY + 2 * 7 / 8 * 1e6 / RATE)):
        found = all_reduce_seconds(
            np.array([1e6]), np.array([8.0]), RATE, LATENCY, np.array([True]), np.array([shots])
        )
        assert float(found[0]) == pytest.approx(wanted)
    # More ranks than such kernels join take what is fastest.
    many = all_reduce_seconds(
        np.array([1e6]), np.array([16.0]), RATE, LATENCY, np.array([True]), np.array([1])
    )
    assert float(many[0]) == seconds(1e6, 16, in_switch=True)


def test_each_kind_has_its_formula() -> None:
    kinds = np.arange(len(COLLECTIVES))
    ways, sent = np.full(4, 8.0), np.full(4, 7e3)
    routes = routes_of(ways, np.full(4, 8.0), 8.0, np.full(4, RATE))
    made = collective_seconds(kinds, sent, ways, RATE, LATENCY, 6e-6, np.zeros(4, np.bool_), routes)
    assert made == pytest.approx(
        [0.0, LATENCY + 7 * 4e3 / RATE, LATENCY + 7e3 / RATE, 3 * 6e-6 + 7e3 / RATE]
    )
    alone = collective_seconds(
        kinds, sent, np.ones(4), RATE, LATENCY, 6e-6, np.zeros(4, np.bool_), routes
    )
    assert (alone == 0).all()


def exchange_of(sent: float, ways: int, near: float = 8 * RATE) -> tuple[float, Routes]:
    """Tokens with 8 experts each, over domains of 8."""
    n = np.array([float(ways)])
    routes = routes_of(n, np.array([8.0]), 8.0, np.array([near]))
    return float(exchange_seconds(np.array([sent]), n, RATE, LATENCY, routes)[0]), routes


def test_many_tokens_cross_once_for_each_node() -> None:
    """32 ranks on 4 nodes: a token with 8 experts goes to 6.95 other ranks, on 2.70 other nodes."""
    few, routes = exchange_of(1e3, 32)
    many, _ = exchange_of(1e9, 32)
    copies = 31 * (1 - (31 / 32) ** 8)
    nodes = 3 * (1 - (3 / 4) ** 8)
    assert float(routes.crossing[0]) == pytest.approx(nodes / copies)
    assert few == pytest.approx(5 * LATENCY + 24 / 31 * 1e3 / RATE)
    assert many == pytest.approx(8 * LATENCY + nodes / copies * 1e9 / RATE)
    # A domain hardly faster than what is beyond is no use as a detour.
    slow, _ = exchange_of(1e9, 32, near=RATE)
    assert slow == pytest.approx(5 * LATENCY + 24 / 31 * 1e9 / RATE)


def test_within_a_domain_there_is_one_way() -> None:
    found, routes = exchange_of(1e9, 8)
    assert float(routes.far[0]) == 1.0
    assert found == pytest.approx(3 * LATENCY + 1e9 / RATE)
    sizes = [exchange_of(size, ways)[0] for ways in (2, 8, 16, 144) for size in SIZES]
    table = np.array(sizes).reshape(4, -1)
    assert (np.diff(table, axis=1) >= 0).all()


def test_ampere_and_cards_have_no_adding_switch() -> None:
    assert not load_accelerator("a100-sxm-80").chip().in_switch
    assert not load_accelerator("l40s").chip().in_switch


def test_eras_are_told_by_version() -> None:
    assert era_of("trtllm", "1.0.0rc3") == "trtllm-1.0"
    assert era_of("trtllm", "1.1.0rc2.post2") == "trtllm-1.1"
    assert era_of("trtllm", "1.2.0rc6.post3") == era_of("trtllm", "") == "trtllm"
    assert era_of("vllm", "0.12.0") == era_of("vllm", "v0.13.1") == "vllm-0.13"
    assert era_of("vllm", "0.14.0") == era_of("vllm", "nightly-5b8c30d") == "vllm"
    assert era_of("sglang", "0.4.1") == "sglang"
    assert set(ENGINES) < set(ERAS) == set(ERA_TITLES)


def test_who_reserves_answers_has_room_for_fewer() -> None:
    assert held_tokens("trtllm", 1000, 500) == 1500
    assert held_tokens("vllm", 1000, 500) == held_tokens("sglang", 1000, 500) == 1250
