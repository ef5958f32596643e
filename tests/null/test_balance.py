"""How an int8 cache evens out keys whose model gives them large biases: which, and by how much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ridgeline.backends.reference.kv_formats import hadamard, kept_keys, mixed_channels
from ridgeline.model.graph.kv_format import KV_FORMATS, KeyBalance
from ridgeline.model.graph.ops.rope import Rotation
from ridgeline.model.opened import open_model
from ridgeline.model.passes.balance import POSITIONS, head_balance, key_balances, mean_turn
from ridgeline.model.passes.fuse import fuse, merge_linears
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.model.passes.shard import shard

GOLDEN = Path(__file__).parent.parent / "golden"
FREQUENCIES = tuple(1e6 ** (-i / 32) for i in range(32))

Doubles = npt.NDArray[np.float64]


@pytest.mark.parametrize("channels", [1, 6, 16, 64, 80, 96, 128])
def test_the_transform_keeps_products_and_spreads_one_channel(channels: int) -> None:
    random = np.random.default_rng(channels)
    q, k = random.normal(size=(2, 5, channels))
    mixed = mixed_channels(channels)
    assert channels % mixed == 0
    assert channels // mixed % 2 == 1
    assert np.allclose((hadamard(q) * hadamard(k)).sum(-1) / mixed, (q * k).sum(-1))
    assert np.allclose(hadamard(hadamard(k)), mixed * k)
    one = np.zeros(channels)
    one[channels // 2] = 3.0
    assert sorted(np.abs(hadamard(one))) == [0.0] * (channels - mixed) + [3.0] * mixed


@pytest.mark.parametrize("frequency", [0.0, 1e-12, 1.5e-6, 1e-4, 0.03, 1.0])
def test_the_mean_of_a_turn(frequency: float) -> None:
    want = np.exp(1j * frequency * np.arange(POSITIONS)).mean()
    assert abs(mean_turn(frequency) - want) < 1e-9


def turned(x: Doubles, positions: Doubles, rotation: Rotation) -> Doubles:
    """x [tokens, channels] rotated, by complex numbers."""
    half = len(rotation.frequencies)
    first, second = np.arange(half), np.arange(half) + half
    if rotation.interleaved:
        first, second = 2 * np.arange(half), 2 * np.arange(half) + 1
    turn = np.exp(1j * positions[:, None] * np.array(rotation.frequencies)) * rotation.magnitude
    pairs = (x[:, first] + 1j * x[:, second]) * turn
    out = x.copy()
    out[:, first], out[:, second] = pairs.real, pairs.imag
    return out


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("channels", [64, 80])
def test_the_centre_is_the_mean_of_the_rotated_bias(channels: int, interleaved: bool) -> None:
    rotation = Rotation(FREQUENCIES, interleaved, magnitude=1.25)
    bias = np.random.default_rng(1).normal(0, 60, channels)
    turns = turned(np.tile(bias, (POSITIONS, 1)), np.arange(POSITIONS, dtype=float), rotation)
    balance = head_balance(bias.tolist(), rotation, shifted=True)
    assert np.allclose(balance.centres, turns.mean(0), atol=1e-6)
    powers = np.exp2(balance.exponents)
    first = 2 * np.arange(32) if interleaved else np.arange(32)
    second = first + 1 if interleaved else first + 32
    assert np.array_equal(powers[first], powers[second])
    of_pairs = turns.var(0)[first] + turns.var(0)[second]
    want = np.log2(np.sqrt(of_pairs + 16) / 4)
    assert (np.abs(np.log2(powers[first]) - want) < 0.51).all()
    assert (powers[64:] == 1).all(), "what does not turn is all in the centre"


def test_without_a_shift_all_of_the_bias_is_divided() -> None:
    balance = head_balance([150.0, 0.0, 1.0, 0.0], Rotation((1e-6, 1.0)), shifted=False)
    assert balance == KeyBalance((0.0,) * 4, (5, 0, 5, 0))
    balance = head_balance([150.0, 0.0, 1.0, 3.0], None, shifted=True)
    assert balance == KeyBalance((150.0, 0.0, 1.0, 3.0), (0,) * 4)


def test_keys_of_large_biases_are_kept_as_well_as_others() -> None:
    """Scores of queries with the keys of a head like Qwen2's first ones, against exact ones."""
    random = np.random.default_rng(3)
    rotation = Rotation(FREQUENCIES)
    bias = np.zeros(64)
    bias[[31, 63, 62, 29, 20, 52]] = [134.0, 72.0, -145.0, 122.0, 30.0, -20.0]
    positions = np.arange(2000, dtype=float)
    content = random.normal(0, 1.5, (2000, 64))
    plain = turned(content, positions, rotation)[:, None]
    keys = turned(content + bias, positions, rotation)[:, None]
    queries = random.normal(0, 1, (300, 64))
    balance = head_balance(bias.tolist(), rotation, shifted=True)

    def error(keys: Doubles, balance: KeyBalance | None) -> float:
        """Of scores, less what is the same for all keys of a query."""
        difference = (kept_keys(keys, "int8", balance) - keys)[:, 0] @ queries.T
        return float((difference - difference.mean(0)).std())

    balanced, good, bad = error(keys, balance), error(plain, None), error(keys, None)
    assert balanced < 2.5 * good
    assert bad > 5 * balanced, (good, balanced, bad)


@pytest.mark.parametrize("name", ["qwen2", "qwen2_moe"])
def test_biases_are_found_wherever_they_stand(name: str) -> None:
    opened = open_model(GOLDEN / name)
    graph, numbers = opened.graph, opened.weights.numbers
    found = key_balances(graph, numbers)
    assert set(found) == {state.name for state in graph.states}
    assert any(any(balance.centres) for balance in found.values())
    assert key_balances(merge_linears(graph), numbers) == found, "q, k and v in one linear"
    kept = fuse(with_kv_format(graph, KV_FORMATS["int8"], numbers))
    assert {state.name: state.balance for state in kept.states} == found
    for other in ("bf16", "f16"):
        states = with_kv_format(graph, KV_FORMATS[other], numbers).states
        assert all(state.balance is None for state in states)


def test_a_rank_has_its_heads_balance() -> None:
    opened = open_model(GOLDEN / "qwen2")
    graph = with_kv_format(opened.graph, KV_FORMATS["int8"], opened.weights.numbers)
    ranks = shard(graph, 2)
    for whole, *parts in zip(graph.states, *(rank.states for rank in ranks), strict=True):
        found = [part.balance for part in parts]
        assert whole.balance is not None
        assert [part.kv_heads * len(parts) for part in parts] == [whole.kv_heads] * len(parts)
        joined = [each for each in found if each is not None]
        assert sum((each.centres for each in joined), ()) == whole.balance.centres
        assert sum((each.exponents for each in joined), ()) == whole.balance.exponents


def test_who_has_no_bias_or_a_sink() -> None:
    qwen3 = open_model(GOLDEN / "qwen3")
    assert key_balances(qwen3.graph, qwen3.weights.numbers) == {}
    gpt_oss = open_model(GOLDEN / "gpt_oss")  # a bias, and a sink beside the scores
    found = key_balances(gpt_oss.graph, gpt_oss.weights.numbers)
    assert found
    assert not any(any(balance.centres) for balance in found.values())
