"""What operators mean, against scalar loops: what the golden checkpoints have no model for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from ridgeline.backends.reference.call import Call, KvCache
from ridgeline.backends.reference.state_table import BoundRow
from ridgeline.backends.reference.table import REFERENCE
from ridgeline.errors import EngineError
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.node import KvState
from ridgeline.model.graph.ops import (
    Activate,
    AddNorm,
    AllGather,
    AllReduce,
    Attention,
    Combine,
    Dispatch,
    Embed,
    GatedActivation,
    KvWrite,
    Norm,
    Operator,
    Pool,
    PositionEmbed,
    Rope,
    RopeKvWrite,
    Rotation,
    Scale,
    SelectRows,
    Softcap,
    TypeEmbed,
)
from ridgeline.step import RowSampling

Doubles = npt.NDArray[np.float64]

EXACT = KV_FORMATS["f32"]

# Two rows: 3 new tokens after 2, and 2 new tokens from nothing; blocks out of order.
ROWS = [
    BoundRow(0, 3, 2, 1, np.arange(5), np.array([[3], [1]]), RowSampling()),
    BoundRow(1, 2, 0, 2, np.arange(2), np.array([[2]]), RowSampling()),
]
BLOCK_TOKENS = 4


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def run(
    op: Operator,
    *inputs: npt.NDArray[np.floating],
    weights: Sequence[npt.NDArray[np.floating]] = (),
    cache: KvCache | None = None,
    rows: Sequence[BoundRow] = ROWS,
) -> tuple[Doubles, ...]:
    return REFERENCE[type(op)](op, Call(inputs, tuple(weights), rows, cache))


def cache_of(state: KvState, rows: Sequence[BoundRow] = ROWS) -> tuple[KvCache, list[Doubles]]:
    """A cache with random keys and values for all tokens of `rows`; and the same plainly."""
    cache, plain, random = KvCache(state, 5, BLOCK_TOKENS, np.float64), [], rng()
    for row in rows:
        k = random.standard_normal((row.num_tokens, state.kv_heads * state.key_dim))
        v = random.standard_normal((row.num_tokens, state.kv_heads * state.value_dim))
        whole = BoundRow(
            row.row, row.num_tokens, 0, 0, row.token_ids, row.block_table, row.sampling
        )
        cache.write(whole, k, v)
        plain += [k, v]
    return cache, plain


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 2, 4])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_attention(causal: bool, window: int | None, softcap: float | None) -> None:
    """Pair by pair; keys and values of different widths, two query heads to a KV head."""
    op = Attention(4, 3, 5, scale=0.7, softcap=softcap, causal=causal)
    state = KvState("kv", 2, 3, 5, window, EXACT)
    cache, plain = cache_of(state)
    q = rng().standard_normal((5, 12))
    (found,) = run(op, q, cache=cache)
    expected = np.zeros((5, 20))
    token = 0
    for row, k, v in ((ROWS[0], plain[0], plain[1]), (ROWS[1], plain[2], plain[3])):
        for position in row.positions:
            for head in range(4):
                kv_head = head // 2
                weights = []
                for key in range(row.num_tokens):
                    seen = key <= position or not causal
                    if window is not None:
                        seen = seen and key > position - window
                    score = 0.7 * sum(
                        q[token, head * 3 + d] * k[key, kv_head * 3 + d] for d in range(3)
                    )
                    if softcap is not None:
                        score = softcap * math.tanh(score / softcap)
                    weights.append(math.exp(score) if seen else 0.0)
                for d in range(5):
                    expected[token, head * 5 + d] = sum(
                        w * v[key, kv_head * 5 + d] for key, w in enumerate(weights)
                    ) / sum(weights)
            token += 1
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_attention_reads_only_its_own_row() -> None:
    state = KvState("kv", 1, 2, 2, format=EXACT)
    cache, _ = cache_of(state)
    q = rng().standard_normal((5, 2))
    op = Attention(1, 2, 2, 1.0)
    (both,) = run(op, q, cache=cache)
    (alone,) = run(op, q[3:], cache=cache, rows=ROWS[1:])
    np.testing.assert_array_equal(both[3:], alone)


def test_an_unwritten_slot_is_nan() -> None:
    cache = KvCache(KvState("kv", 1, 2, 2), 5, BLOCK_TOKENS, np.float64)
    run(KvWrite(), np.zeros((5, 2)), np.zeros((5, 2)), cache=cache)
    (found,) = run(Attention(1, 2, 2, 1.0), np.ones((5, 2)), cache=cache)
    assert np.isnan(found[:3]).all(), "the first row's context was never written"
    assert np.isfinite(found[3:]).all()


@pytest.mark.parametrize("interleaved", [True, False])
def test_rope(interleaved: bool) -> None:
    """Two of three pairs turn; each is a complex number times magnitude * e^(i * angle)."""
    rotation = Rotation((0.9, 0.3), interleaved, magnitude=1.25)
    x = rng().standard_normal((5, 12))
    (found,) = run(Rope(2, 6, rotation), x)
    expected = x.copy()
    positions = [2, 3, 4, 0, 1]
    for token, position in enumerate(positions):
        for head in (0, 6):
            for pair, frequency in enumerate(rotation.frequencies):
                a, b = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + 2)
                turned = complex(x[token, head + a], x[token, head + b]) * 1.25
                turned *= complex(math.cos(position * frequency), math.sin(position * frequency))
                expected[token, head + a] = turned.real
                expected[token, head + b] = turned.imag
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_rope_keeps_distances() -> None:
    """q.k after the turn depends on positions' difference alone (Su et al. 2021)."""
    rotation = Rotation((0.9, 0.3, 0.1))
    q, k = rng().standard_normal((2, 1, 6))

    def turned(x: Doubles, position: int) -> Doubles:
        row = BoundRow(
            0, 1, position, 0, np.zeros(position + 1, np.int64), np.arange(9), RowSampling()
        )
        return run(Rope(1, 6, rotation), x, rows=[row])[0]

    near = turned(q, 7) @ turned(k, 4).T
    far = turned(q, 23) @ turned(k, 20).T
    np.testing.assert_allclose(near, far, rtol=1e-12)


def test_rope_kv_write_is_its_parts() -> None:
    rotation, norm, state = (
        Rotation((0.9, 0.3)),
        Norm(eps=1e-5),
        KvState("kv", 2, 6, 6, format=EXACT),
    )
    qkv = rng().standard_normal((5, (4 + 2 + 2) * 6))
    weights = list(rng().standard_normal((2, 6)))
    fused, parts = (KvCache(state, 5, BLOCK_TOKENS, np.float64) for _ in range(2))
    (found,) = run(RopeKvWrite(4, 2, 6, rotation, norm), qkv, weights=weights, cache=fused)
    q, k, v = np.split(qkv, [24, 36], axis=1)
    (q,) = run(Norm(eps=1e-5, num_groups=4), q, weights=weights[:1])
    (k,) = run(Norm(eps=1e-5, num_groups=2), k, weights=weights[1:])
    (q,), (k,) = run(Rope(4, 6, rotation), q), run(Rope(2, 6, rotation), k)
    assert run(KvWrite(), k, v, cache=parts) == ()
    np.testing.assert_array_equal(found, q)
    for a, b in zip(fused.read(ROWS[1]), parts.read(ROWS[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_norms() -> None:
    x, w, b = rng().standard_normal((2, 6)), rng().standard_normal(3), rng().standard_normal(3)
    (rms,) = run(Norm("rms", 0.1, offset=1.0, num_groups=2), x, weights=[w])
    (layer,) = run(Norm("layer", 0.1, num_groups=2), x, weights=[w, b])
    for i in range(2):
        for group in (0, 3):
            part = [float(x[i, group + j]) for j in range(3)]
            mean = sum(part) / 3
            scale = 1 / math.sqrt(sum(p * p for p in part) / 3 + 0.1)
            spread = 1 / math.sqrt(sum((p - mean) ** 2 for p in part) / 3 + 0.1)
            for j in range(3):
                assert rms[i, group + j] == pytest.approx(part[j] * scale * (w[j] + 1))
                centred = (part[j] - mean) * spread
                assert layer[i, group + j] == pytest.approx(centred * w[j] + b[j])


def test_a_norm_without_weights_is_one_with_ones() -> None:
    x = rng().standard_normal((2, 6))
    (bare,) = run(Norm("layer", 0.1, num_groups=2), x)
    np.testing.assert_allclose(
        bare, run(Norm("layer", 0.1, num_groups=2), x, weights=[np.ones(3)])[0]
    )


def test_add_norm_gives_the_sum_too() -> None:
    h, y, w = rng().standard_normal((3, 2, 4))
    total, normed = run(AddNorm(), h, y, weights=[w[0]])
    np.testing.assert_array_equal(total, h + y)
    np.testing.assert_array_equal(normed, run(Norm(), h + y, weights=[w[0]])[0])


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("silu", lambda x: x / (1 + math.exp(-x))),
        ("gelu", lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))),
        (
            "gelu_tanh",
            lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        ),
        ("quick_gelu", lambda x: x / (1 + math.exp(-1.702 * x))),
        ("relu", lambda x: max(x, 0.0)),
        ("relu2", lambda x: max(x, 0.0) ** 2),
        ("tanh", math.tanh),
        ("sigmoid", lambda x: 1 / (1 + math.exp(-x))),
        ("identity", lambda x: x),
    ],
)
def test_activations(name: str, meaning: object) -> None:
    gate, up = np.array([[-3.0, -0.5, 0.0, 0.7, 4.0]]), np.array([[2.0, -1.0, 5.0, 3.0, 0.5]])
    op = GatedActivation(name)  # type: ignore[arg-type]
    (apart,) = run(op, gate, up)
    expected = [meaning(g) * u for g, u in zip(gate[0], up[0], strict=True)]  # type: ignore[operator]
    np.testing.assert_allclose(apart[0], expected, rtol=1e-12, atol=1e-12)
    (ungated,) = run(Activate(name), gate)  # type: ignore[arg-type]
    expected = [meaning(g) for g in gate[0]]  # type: ignore[operator]
    np.testing.assert_allclose(ungated[0], expected, rtol=1e-12, atol=1e-12)
    joint = GatedActivation(name, joint=True)  # type: ignore[arg-type]
    np.testing.assert_array_equal(run(joint, np.concatenate([gate, up], axis=1))[0], apart)


def test_silu_of_large_numbers_is_finite() -> None:
    with np.errstate(all="raise", under="ignore"):
        (found,) = run(GatedActivation("silu"), np.array([[-1e4, 1e4]]), np.ones((1, 2)))
    assert found.tolist() == [[0.0, 1e4]]


def test_softcap_scale_and_rows() -> None:
    x = rng().standard_normal((5, 3))
    np.testing.assert_allclose(run(Softcap(2.0), x)[0], 2 * np.tanh(x / 2), rtol=1e-12)
    np.testing.assert_array_equal(run(Scale(0.5), x)[0], x / 2)
    np.testing.assert_array_equal(run(SelectRows(), x)[0], x[[2, 3, 4]])


def test_a_share_of_an_embedding_gives_zeros_for_what_it_has_not() -> None:
    table, ids = rng().standard_normal((4, 2)), np.array([3, 4, 7, 8])
    (found,) = run(Embed(scale=2.0, first_row=4), ids, weights=[table])
    np.testing.assert_array_equal(found, [[0, 0], 2 * table[0], 2 * table[3], [0, 0]])


def test_collectives_take_every_ranks_value() -> None:
    ranks = list(rng().standard_normal((3, 2, 4)))
    (total,) = run(AllReduce(3), *ranks)
    (gathered,) = run(AllGather(3), *ranks)
    np.testing.assert_allclose(total, sum(ranks))
    np.testing.assert_array_equal(gathered, np.concatenate(ranks, axis=1))


def test_tokens_go_to_every_rank_and_what_comes_back_is_ones_own() -> None:
    tokens, slots = rng().standard_normal((3, 2, 4)), rng().standard_normal((3, 2, 2))
    given = [value for pair in zip(tokens, slots, strict=True) for value in pair]
    sent, with_slots = run(Dispatch(3, 1, 1.0), *given)
    np.testing.assert_array_equal(sent, tokens)
    np.testing.assert_array_equal(with_slots, slots)
    made = rng().standard_normal((3, 3, 2, 4))  # by rank, of whose tokens
    back = run(Combine(3, 1, 2.0), *made)
    np.testing.assert_allclose(np.stack(back), made.sum(0))


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_attention_looks_ahead_as_far_as_it_may(ahead: int) -> None:
    """Window and reach ahead against the same with what is hidden left out."""
    op = Attention(1, 3, 2, scale=0.7, causal=False, ahead=ahead)
    state = KvState("kv", 1, 3, 2, 2, EXACT)
    row = BoundRow(0, 6, 0, 6, np.arange(6), np.array([[2], [0]]), RowSampling())
    cache, (k, v) = cache_of(state, (row,))
    q = rng().standard_normal((6, 3))
    (found,) = run(op, q, cache=cache, rows=(row,))
    for i in range(6):
        seen = slice(max(0, i - 1), min(6, i + ahead + 1))
        weights = np.exp(0.7 * k[seen] @ q[i])
        np.testing.assert_allclose(found[i], weights @ v[seen] / weights.sum(), rtol=1e-12)


def test_positions_segments_and_pools() -> None:
    table = rng().standard_normal((9, 3))
    ids = np.zeros(5, np.int64)
    np.testing.assert_array_equal(
        run(PositionEmbed(1), ids, weights=[table])[0], table[[3, 4, 5, 1, 2]]
    )
    # Row 0 has tokens 0 to 4, of which 2 to 4 are new; row 1 has 0 and 1.
    for separator, types in ((2, [0, 1, 1, 0, 0]), (0, [1, 1, 1, 0, 1]), (None, [0] * 5)):
        (found,) = run(TypeEmbed(separator), ids, weights=[table[:2]])
        np.testing.assert_array_equal(found, table[:2][types])
    whole = [
        BoundRow(i, n, 0, 1, np.arange(n), np.array([[i]]), RowSampling())
        for i, n in ((0, 3), (1, 2))
    ]
    x = rng().standard_normal((5, 4))
    (mean,) = run(Pool("mean"), x, rows=whole)
    np.testing.assert_allclose(mean, [x[:3].mean(0), x[3:].mean(0)], rtol=1e-15)
    np.testing.assert_array_equal(run(Pool("first"), x, rows=whole)[0], x[[0, 3]])
    with pytest.raises(EngineError, match="only whole sequences"):
        run(Pool("mean"), x)
