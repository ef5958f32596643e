"""Attention of the CPU backend on each instruction set: against float64, and bit for bit however a
row's tokens are cut into steps.

A row's token i has the i-th row of the table as its q, k and v, side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE, NUM_BLOCKS, executor, one_operator

from ridgeline.backends.cpu import _native
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.reference.kv_formats import hadamard, kept, kept_keys, mixed_channels
from ridgeline.errors import ModelError
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.kv_format import KV_FORMATS, KeyBalance
from ridgeline.model.graph.node import KvState, Value
from ridgeline.model.graph.ops import Attention, KvWrite
from ridgeline.step import PlanRow, RowSampling, StepPlan
from threads import USUAL

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

isas = pytest.mark.parametrize("isa", AVAILABLE)
FORMATS = ("bf16", "f16", "int8")
formats = pytest.mark.parametrize("kv_format", FORMATS)


@dataclass(frozen=True)
class Shape:
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 64
    value_dim: int = 64
    window: int | None = None
    softcap: float | None = None
    causal: bool = True
    ahead: int | None = None
    chunked: bool = False
    tokens: int = 700
    scale: float = 0.125
    kv_format: str = "bf16"
    balanced: bool = False

    @property
    def balance(self) -> KeyBalance | None:
        if not self.balanced:
            return None
        channels = range(self.kv_heads * self.head_dim)
        return KeyBalance(
            tuple(50.0 * (i % 11 == 3) for i in channels), tuple(i % 7 // 3 * 3 for i in channels)
        )

    @property
    def powers(self) -> Doubles:
        """What keys are divided by, [kv_heads, head_dim]."""
        exponents = self.balance.exponents if self.balance else (0,) * self.widths[1]
        return np.exp2(np.array(exponents, np.float64)).reshape(self.kv_heads, self.head_dim)

    @property
    def widths(self) -> tuple[int, int, int]:
        return (
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
            self.kv_heads * self.value_dim,
        )


# Contexts 1, 15, 16, 17, 255, 256, 257 and 700 are all among a prompt's tokens.
SHAPES = [
    Shape(),
    Shape(heads=4, kv_heads=4, head_dim=16, value_dim=16, tokens=300),
    Shape(heads=5, kv_heads=1, head_dim=80, value_dim=80, tokens=300),
    Shape(heads=4, kv_heads=1, head_dim=256, value_dim=256, tokens=300, window=100, scale=1 / 16),
    Shape(heads=2, kv_heads=1, head_dim=96, value_dim=40, tokens=270),
    Shape(heads=2, kv_heads=2, head_dim=10, value_dim=6, tokens=270),
    Shape(heads=3, kv_heads=1, window=1, tokens=40),
    Shape(heads=3, kv_heads=1, window=16),
    Shape(heads=3, kv_heads=1, window=257),
    Shape(heads=3, kv_heads=1, window=300, softcap=2.0),
    Shape(heads=3, kv_heads=1, window=16, chunked=True, tokens=300),
    Shape(heads=3, kv_heads=1, window=300, chunked=True),
    Shape(heads=16, kv_heads=1, softcap=20.0, tokens=280),
    Shape(heads=64, kv_heads=1, head_dim=32, value_dim=32, tokens=40),
    Shape(heads=3, kv_heads=1, causal=False, tokens=300),
    Shape(heads=3, kv_heads=1, causal=False, tokens=300, window=33),
    Shape(heads=3, kv_heads=1, causal=False, window=65, ahead=64),
    Shape(heads=2, kv_heads=2, causal=False, window=300, ahead=0),
]
# The other formats share all but the arithmetic of a tile and its layout.
SHAPES += [
    replace(shape, kv_format=name, tokens=min(shape.tokens, 300))
    for name in FORMATS[1:]
    for shape in (*SHAPES[:6], *SHAPES[7:10], SHAPES[11], SHAPES[13], SHAPES[15])
]
SHAPES += [
    Shape(kv_format="int8", balanced=True, tokens=300),
    Shape(
        heads=5, kv_heads=1, head_dim=80, value_dim=80, tokens=270, kv_format="int8", balanced=True
    ),
]
CAUSAL = [shape for shape in SHAPES if shape.causal]


def numbers(shape: Shape, rows: int | None = None) -> Floats:
    random = np.random.default_rng(4)
    x = random.normal(0, 1, (rows or shape.tokens, sum(shape.widths))).astype(np.float32)
    q_width, k_width, _ = shape.widths
    x[:, :q_width] *= 3
    if shape.balance:  # keys whose channels need it, and queries that make as much of each
        powers = shape.powers.astype(np.float32)
        centres = np.array(shape.balance.centres, np.float32)
        x[:, q_width : q_width + k_width] *= powers.ravel()
        x[:, q_width : q_width + k_width] += centres
        x[:, :q_width] /= np.repeat(powers, shape.heads // shape.kv_heads, axis=0).ravel()
    return x


def attending(shape: Shape, isa: str, table: Floats, threads: int = USUAL) -> CpuExecutor:
    kv_format = KV_FORMATS[shape.kv_format]
    state = KvState(
        "kv",
        shape.kv_heads,
        shape.head_dim,
        shape.value_dim,
        shape.window,
        kv_format,
        balance=shape.balance,
    )
    op = Attention(
        shape.heads,
        shape.head_dim,
        shape.value_dim,
        shape.scale,
        shape.softcap,
        shape.causal,
        shape.ahead,
        chunked=shape.chunked,
    )

    def add(b: Builder, values: tuple[Value, ...]) -> Value:
        q, k, v = values
        b.add("write", KvWrite(), k, v, state=state)
        return b.one("attend", op, q, state=state)

    return executor(one_operator(len(table), shape.widths, add), {"table": table}, isa, threads)


def rounded(x: Floats) -> Doubles:
    """To bfloat16, the nearest, ties to even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    up = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (up & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


def expected(shape: Shape, table: Floats) -> tuple[Doubles, Doubles]:
    """In float64, of k and v as the cache keeps them and q as it is multiplied; and how far
    rounding on the way may take a number from that: in bf16 of the softmax weights, 2^-8 of each;
    in int8 of queries to 2^-16 of their largest and of weights to 2^-16 of the largest with its
    scale; and everywhere of float32 sums.
    """
    q_width, k_width, _ = shape.widths
    n = len(table)
    log2_e = np.float32(1.44269504)
    scale = np.float32(shape.scale) * (np.float32(1) if shape.softcap else log2_e)
    scaled = (table[:, :q_width] * scale).reshape(n, shape.heads, -1)
    q = rounded(scaled) if shape.kv_format == "bf16" else scaled.astype(np.float64)
    k = kept_keys(
        table[:, q_width : q_width + k_width].reshape(n, shape.kv_heads, -1).astype(np.float64),
        shape.kv_format,
        shape.balance,
    )
    v = kept(table[:, q_width + k_width :].reshape(n, shape.kv_heads, -1), shape.kv_format)
    if shape.kv_format == "bf16":
        assert np.array_equal(k, rounded(table[:, q_width : q_width + k_width]).reshape(k.shape))
    k, v = k.astype(np.float64), v.astype(np.float64)
    query, key = np.arange(n)[:, None], np.arange(n)[None]
    hidden = (key > query) if shape.causal else np.zeros((n, n), bool)
    if shape.ahead is not None:
        hidden = hidden | (key > query + shape.ahead)
    if shape.window is not None and shape.chunked:
        hidden = hidden | (key // shape.window != query // shape.window)
    elif shape.window is not None:
        hidden = hidden | (key <= query - shape.window)
    out, bound = (np.empty((n, shape.heads, shape.value_dim)) for _ in range(2))
    for head in range(shape.heads):
        group = head // (shape.heads // shape.kv_heads)
        scores = q[:, head] @ k[:, group].T
        if shape.softcap:
            scores = shape.softcap * np.tanh(scores / shape.softcap) * float(log2_e)
        scores = np.where(hidden, -np.inf, scores)
        weights = np.exp2(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[:, head] = weights @ v[:, group]
        relative = 3e-5 * np.ones((n, 1))
        if shape.kv_format == "bf16":
            relative += 2**-8
        elif shape.kv_format == "int8":
            powers, centres = shape.powers[group], np.zeros(shape.head_dim)
            if shape.balance:
                centres = np.array(shape.balance.centres).reshape(shape.powers.shape)[group]
            mixed_q = hadamard(q[:, head] * powers) / mixed_channels(shape.head_dim)
            error = np.abs(mixed_q).max(-1) * 2**-16
            keys = np.abs(hadamard((k[:, group] - centres) / powers)).sum(-1).max()
            relative += 2 * np.log(2) * error[:, None] * keys
        bound[:, head] = relative * (weights @ np.abs(v[:, group])) + 1e-30
        if shape.kv_format == "int8":
            scales = np.abs(v[:, group]).max(-1) / 127
            largest = (weights * scales).max(-1, keepdims=True)
            seen = (~hidden).astype(np.float64)
            bound[:, head] += 2**-16 * largest * (seen @ np.abs(v[:, group] / scales[:, None]))
    return out.reshape(n, -1), bound.reshape(n, -1)


def in_chunks(cpu: CpuExecutor, total: int, chunks: list[int], blocks: list[int]) -> Floats:
    """Outputs of all tokens of a row that computes so many at a time, then again and again."""
    cpu.open_row(5, list(range(total)), RowSampling())
    parts, done = [], 0
    for turn in range(total):
        n = min(chunks[turn % len(chunks)], total - done)
        have, need = -(-done // 16), -(-(done + n) // 16)
        row = PlanRow(5, n, done, n, tuple(blocks[have:need]))
        parts.append(cpu.forward(StepPlan((row,))))
        done += n
        if done == total:
            break
    cpu.close_row(5)
    return np.concatenate(parts)


def shuffled(seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(NUM_BLOCKS).tolist()


@isas
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(shape: Shape, isa: str) -> None:
    table = numbers(shape)
    found = in_chunks(attending(shape, isa, table), shape.tokens, [shape.tokens], shuffled(0))
    want, bound = expected(shape, table)
    assert (np.abs(found - want) <= bound).all()
    # Roundings are as often up as down: over a row they come to less. Found, at most and as median:
    # 3.2e-3 and 1.4e-3 in bf16, 3.5e-6 and 1.5e-6 in f16, 1.9e-4 and 1.0e-4 in int8.
    error = np.linalg.norm(found - want, axis=1) / np.linalg.norm(want, axis=1)
    most, half = {"bf16": (2**-8, 2**-9), "f16": (1e-5, 3e-6), "int8": (4e-4, 2e-4)}[
        shape.kv_format
    ]
    assert error.max() < most
    assert np.median(error) < half


@isas
@pytest.mark.parametrize("shape", CAUSAL, ids=str)
def test_chunks_and_blocks_do_not_change_a_bit(shape: Shape, isa: str) -> None:
    tokens = min(shape.tokens, 300)
    table = numbers(shape, tokens)
    cpu = attending(shape, isa, table)
    whole = in_chunks(cpu, tokens, [tokens], shuffled(1))
    for chunks in ([1], [7], [16], [31, 1, 2], [100], [255, 2], [256], [tokens - 1, 1]):
        assert np.array_equal(in_chunks(cpu, tokens, chunks, shuffled(len(chunks))), whole), chunks


@formats
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [Shape(), Shape(heads=3, kv_heads=1, window=300)], ids=str)
def test_a_long_context_parted_over_threads(shape: Shape, threads: int, kv_format: str) -> None:
    if kv_format != "bf16" and threads in (1, 5):
        pytest.skip("the parting is the same")
    shape = replace(shape, kv_format=kv_format)
    table = numbers(shape, 2100)
    cpu = attending(shape, AVAILABLE[0], table, threads)
    cpu.open_row(5, list(range(2100)), RowSampling())
    parts = []
    for done, n in ((0, 1000), (1000, 1000), (2000, 96), (2096, 1), (2097, 3)):
        have, need = -(-done // 16), -(-(done + n) // 16)
        row = PlanRow(5, n, done, n, tuple(range(have, need)))
        parts.append(cpu.forward(StepPlan((row,))))
    one = in_chunks(attending(shape, AVAILABLE[0], table, 1), 2100, [700], shuffled(2))
    assert np.array_equal(np.concatenate(parts), one)


@isas
@formats
def test_any_mix_of_rows(isa: str, kv_format: str) -> None:
    """Prefill, decode and a chunk in one step, each as if alone."""
    shape = Shape(window=290, kv_format=kv_format)
    table = numbers(shape)
    cpu = attending(shape, isa, table)
    whole = in_chunks(cpu, 700, [700], shuffled(3))
    blocks = shuffled(4)
    ends = {0: 1, 1: 15, 2: 16, 3: 17, 4: 255, 6: 256, 7: 257, 8: 700}
    plans = []
    for row, end in ends.items():
        cpu.open_row(row, list(range(end)), RowSampling())
        done = {4: 250, 6: 100, 7: 256, 8: 699}.get(row, 0)
        if done:
            have = tuple(blocks.pop() for _ in range(-(-done // 16)))
            cpu.forward(StepPlan((PlanRow(row, done, 0, 1, have),)))
        new = tuple(blocks.pop() for _ in range(-(-end // 16) - -(-done // 16)))
        plans.append(PlanRow(row, end - done, done, 1, new))
    again = [plan._replace(new_blocks=()) for plan in reversed(plans)]
    for order in (plans, again):
        found = cpu.forward(StepPlan(tuple(order)))
        for row, logits in zip(order, found, strict=True):
            assert np.array_equal(logits, whole[ends[row.row] - 1]), row


@isas
@formats
def test_what_a_block_held_before_does_not_matter(isa: str, kv_format: str) -> None:
    """NaN and infinity that another row left in a block are hidden, not multiplied by zero."""
    shape = Shape(heads=2, kv_heads=1, tokens=40, kv_format=kv_format)
    table = numbers(shape)
    clean = in_chunks(attending(shape, isa, table), 37, [5], shuffled(5))
    bad = np.concatenate([table, np.full_like(table, np.nan), np.full_like(table, np.inf)])
    cpu = attending(shape, isa, bad)
    for first in (40, 80):
        cpu.open_row(0, list(range(first, first + 40)), RowSampling())
        cpu.forward(StepPlan((PlanRow(0, 40, 0, 1, (3, 1, 2)),)))
        cpu.close_row(0)
        assert np.array_equal(in_chunks(cpu, 37, [5], [1, 2, 3]), clean)


@isas
@pytest.mark.parametrize(("kv_format", "large"), [("bf16", 1e30), ("f16", 6e4), ("int8", 1e30)])
def test_large_keys_and_values_keep_their_size(isa: str, kv_format: str, large: float) -> None:
    shape = Shape(heads=1, kv_heads=1, head_dim=16, value_dim=16, tokens=3, kv_format=kv_format)
    table = numbers(shape)
    table[1, 32:] = [large, -large] * 8
    table[2, :32] = 0.0
    found = in_chunks(attending(shape, isa, table), 3, [3], shuffled(6))
    want, bound = expected(shape, table)
    assert np.isfinite(found).all()
    assert (np.abs(found - want) <= bound).all()


@isas
@formats
@pytest.mark.parametrize("fault", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["all", "k", "v"])
def test_a_row_with_nan_keeps_it_to_itself(
    isa: str, kv_format: str, fault: float, part: str
) -> None:
    shape = Shape(heads=2, kv_heads=1, tokens=20, kv_format=kv_format)
    table = numbers(shape)
    q_width, k_width, _ = shape.widths
    first, last = {"all": (0, None), "k": (q_width, q_width + k_width), "v": (-k_width, None)}[part]
    table[10:, first:last] = fault
    cpu = attending(shape, isa, table)
    cpu.open_row(0, list(range(10)), RowSampling())
    cpu.open_row(1, list(range(10, 20)), RowSampling())
    found = cpu.forward(StepPlan((PlanRow(1, 10, 0, 1, (0,)), PlanRow(0, 10, 0, 1, (1,)))))
    assert not np.isfinite(found[0]).any()
    if np.isnan(fault) or part != "v":
        assert np.isnan(found[0]).all()
    alone = in_chunks(cpu, 10, [10], shuffled(7))
    assert np.array_equal(found[1], alone[9])


@isas
@formats
def test_a_token_alone_gives_its_value_as_it_is_kept(isa: str, kv_format: str) -> None:
    """Also of subnormal numbers, zeros, and what a scale of int8 cannot be made for."""
    shape = Shape(heads=1, kv_heads=1, head_dim=16, value_dim=48, tokens=64, kv_format=kv_format)
    table = numbers(shape)
    table[:, -48:] *= np.float32(10.0) ** np.arange(-4, 4, 0.125)[:, None]
    table[7, -48:] = 0.0
    table[8, -48:] = 1e-32
    cpu = attending(shape, isa, table)
    for token in range(64):
        cpu.open_row(1, [token], RowSampling())
        (found,) = cpu.forward(StepPlan((PlanRow(1, 1, 0, 1, (token,)),)))
        cpu.close_row(1)
        want = kept(table[token, -48:], kv_format)
        if kv_format == "int8":  # as code * 32767 * (scale / 32767)
            assert np.allclose(found, want, rtol=3e-7, atol=0), token
        else:
            assert np.array_equal(found, want), token


def as_numbers(tile: npt.NDArray[np.uint8], kv_format: str, keys: bool, channels: int) -> Floats:
    """[16 slots, channels] of a tile, by the layouts of src/native/attention.h."""
    if kv_format == "int8":
        scales = tile[-64:].view(np.float32)
        codes = tile[:-64].reshape(-1, 16, 4)
        if keys:  # [quads of channels, slots, 4]
            stored = (codes ^ np.uint8(0x80)).view(np.int8).transpose(1, 0, 2).reshape(16, -1)
        else:  # [fours of slots, channels, 4]
            fours = tile[:-64].view(np.int8).reshape(4, -1, 4)
            stored = fours.transpose(0, 2, 1).reshape(16, -1)
        return stored[:, :channels].astype(np.float32) * scales[:, None]
    halves = tile.view(np.uint16)
    together = 2 if kv_format == "bf16" else 1
    if keys:
        halves = halves.reshape(-1, 16, together).transpose(1, 0, 2).reshape(16, -1)
    else:
        halves = halves.reshape(16 // together, -1, together).transpose(0, 2, 1).reshape(16, -1)
    halves = halves[:, :channels]
    if kv_format == "bf16":
        return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return halves.view(np.float16).astype(np.float32)


@isas
@formats
@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize("channels", [6, 10, 16, 40, 64, 80, 128, 256])
def test_a_tile_holds_the_definitions_numbers_and_nothing_beside_it_is_touched(
    isa: str, kv_format: str, keys: bool, channels: int
) -> None:
    """Written in every cut of its slots: bit for bit, with sentinels around the tile."""
    x = np.random.default_rng(channels).normal(0, 3, (16, channels)).astype(np.float32)
    x[3] = 0.0
    x[5, 1] = 2000.0
    want = kept(hadamard(x) if keys and kv_format == "int8" else x, kv_format)
    num_bytes = _native.tile_bytes(kv_format, keys, channels)
    whole = None
    for cut in ([16], [1] * 16, [4, 4, 8], [3, 5, 1, 7], [15, 1], [2, 3, 11]):
        memory = np.full(num_bytes + 256, 0xA5, np.uint8)
        tile, slot = memory[128 : 128 + num_bytes], 0
        for count in cut:
            _native.write_tile(isa, kv_format, keys, x[slot : slot + count], slot, tile)
            slot += count
        assert (memory[:128] == 0xA5).all()
        assert (memory[128 + num_bytes :] == 0xA5).all()
        found = as_numbers(tile, kv_format, keys, channels)
        assert np.array_equal(found, want), cut
        whole = found if whole is None else whole
        assert np.array_equal(found.view(np.uint32), whole.view(np.uint32)), cut


@formats
def test_instruction_sets_keep_the_same_bytes(kv_format: str) -> None:
    x = np.random.default_rng(2).normal(0, 1, (13, 72)).astype(np.float32)
    for keys in (True, False):
        tiles = []
        for isa in AVAILABLE:
            tile = np.zeros(_native.tile_bytes(kv_format, keys, 72), np.uint8)
            _native.write_tile(isa, kv_format, keys, x, 2, tile)
            tiles.append(tile)
        for tile in tiles[1:]:
            assert np.array_equal(tile, tiles[0])


def test_a_block_of_int8_takes_little_more_than_half() -> None:
    blocks = {}
    for name in FORMATS:
        shape = Shape(kv_heads=8, heads=8, head_dim=128, value_dim=128, tokens=4, kv_format=name)
        cpu = attending(shape, AVAILABLE[-1], numbers(shape))
        blocks[name] = cpu.unit_memory()["kv_block"]
        per_token = 8 * 2 * KV_FORMATS[name].head_bytes(128)
        assert 0 <= blocks[name] - 16 * per_token < 4096 + 64  # the stride keeps off 4 KB
    assert blocks["f16"] == blocks["bf16"]
    assert blocks["int8"] < 0.57 * blocks["bf16"]


def test_what_the_backend_cannot_keep_is_refused_by_name() -> None:
    shape = Shape(tokens=4, kv_format="f32")
    with pytest.raises(ModelError, match="kv: the cpu backend keeps no cache in f32; it has bf16"):
        attending(shape, AVAILABLE[0], numbers(shape))
    wide = Shape(heads=1, kv_heads=1, head_dim=520, value_dim=16, tokens=4, kv_format="int8")
    with pytest.raises(ModelError, match="a head of 520 channels is too wide for a cache in int8"):
        attending(wide, AVAILABLE[0], numbers(wide))
