"""linear on the CPU: every weight format x shape x instruction set against float64 arithmetic on
the dequantized weights, and rows that are the same bits however they are computed.

Two distances are held. Against the activations as the kernel quantizes them (the same rounding, in
NumPy), what is left is how weights are packed: LAYOUT_ERROR. Against the exact activations, int8
ones cost about half a step of their group's largest magnitude: ACTIVATION_ERROR.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from ridgeline.backends.cpu import _native
from ridgeline.model.formats import FORMATS, dequantize, quantize

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

ISAS = ["portable", "avx2", "avx512", "amx"]
ISAS = ISAS[: ISAS.index(_native.best_isa()) + 1]
# Those that kernels multiply as they are; the rest is widened before (backends/cpu/bind.py).
PACKED = [name for name in FORMATS if name in _native.packed_formats()]
SHAPES_K = [32, 64, 96, 256, 576, 896, 1536]
SHAPES_N = [1, 16, 31, 32, 33, 64, 100, 960]

# Relative, 2-norm. A scale that is one float16 is packed as it is; a product of two is rounded to
# float16 again, and so is a minimum once it is moved to the middle of its group's codes.
LAYOUT_ERROR = {
    "F32": 3e-6,
    "F16": 3e-6,
    "BF16": 3e-6,
    "Q4_0": 1e-6,
    "Q4_1": 2e-4,
    "Q5_0": 1e-6,
    "Q5_1": 2e-4,
    "Q8_0": 1e-6,
    "Q2_K": 8e-4,
    "Q3_K": 6e-4,
    "Q4_K": 6e-4,
    "Q5_K": 6e-4,
    "Q6_K": 6e-4,
    "IQ4_NL": 1e-6,
    "MXFP4": 1e-6,
}
# Four bits on AVX-512 (linear_pairs.h): scales are int16 in units of their channel, and a group's
# sum is rounded to a whole number of the larger group's steps.
PAIRS = ("Q4_0", "Q4_1", "Q4_K")
PAIR_ERROR = {"int8": 1e-3, "int8x2": 1e-4}
# Where weights are integers times a float of their channel (linear_amx_layout.h): and what scales
# lose as integers, by the largest number of a code.
COMMON_ERROR = {8: 3e-3, 12: 1e-3, 16: 6e-3, 32: 1e-3, 128: 4e-3}
LARGEST_NUMBER = {"5": 16, "6": 32, "8": 128, "I": 128, "M": 12}
# Groups of int8x2 rows that are smaller than this in their row have one term, but for AVX2.
LEAST_SHARE = 0.85
# Of standard normal activations.
ACTIVATION_ERROR = {"f32": 0.0, "bf16": 6e-3, "int8": 1.2e-2, "int8x2": 6e-3, "int16": 1e-3}
ALL_SECOND_TERMS_ERROR = 6e-5
PACKED_BITS = {
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "Q4_0": 4.5,
    "Q4_1": 5,
    "Q5_0": 5.5,
    "Q5_1": 6,
    "Q8_0": 8.5,
    "Q2_K": 6,
    "Q3_K": 5,
    "Q4_K": 5,
    "Q5_K": 6,
    "Q6_K": 7,
    "IQ4_NL": 4.5,
    "MXFP4": 4.5,
}
SENTINEL = np.float32(-12345.0)


def layout_error(name: str, kind: str, isa: str) -> float:
    if isa == "avx512" and name in PAIRS:
        return LAYOUT_ERROR[name] + PAIR_ERROR[kind]
    if kind != "int16":
        return LAYOUT_ERROR[name]
    largest = LARGEST_NUMBER.get(name.removeprefix("Q")[0], 8)
    return LAYOUT_ERROR[name] + COMMON_ERROR[largest]


def widths(name: str) -> list[int]:
    return [k for k in SHAPES_K if k % FORMATS[name].block_elements == 0]


@cache
def weights(name: str, n: int, k: int) -> tuple[npt.NDArray[np.uint8], Doubles]:
    """Raw bytes (n, row bytes) and what they mean (n, k)."""
    values = np.random.default_rng(k).standard_normal((n, k)).astype(np.float32) * 0.05
    raw = quantize(values, name)
    return raw.reshape(n, -1), dequantize(raw, name, (n, k)).astype(np.float64)


def activations(m: int, k: int) -> Floats:
    return np.random.default_rng(m + k).standard_normal((m, k)).astype(np.float32)


def as_bf16(x: Floats) -> Doubles:
    bits = x.view(np.uint32).astype(np.uint64)
    bits += np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))
    rounded = (bits >> np.uint64(16) << np.uint64(16)).astype(np.uint32)
    return rounded.view(np.float32).astype(np.float64)


def as_int8(x: Floats, terms: int, least_share: float) -> Doubles:
    """What int8 activations (one term) or int8x2 ones (two) stand for; rows of whole groups. A
    group has a second term from `least_share` of the root mean square of its row's scales on.
    """
    groups = x.reshape(len(x), -1, 32)
    largest = np.abs(groups).max(axis=-1, keepdims=True)
    scale = (largest * np.float32(1 / 127)).astype(np.float64)
    has_second = scale**2 >= least_share**2 * (scale**2).mean(axis=1, keepdims=True)
    left = groups * (np.float32(127) / largest)
    total = np.zeros(groups.shape)
    for term in range(terms):
        q = np.rint(left)
        total += np.where(has_second | (term == 0), q, 0) * scale
        left = (left - q) * np.float32(254)
        scale /= 254
    return total.reshape(x.shape)


def as_int16(x: Floats) -> Doubles:
    """What int16 activations stand for: two terms under one scale for each stretch of K."""
    blocks = -(-x.shape[1] // 64)
    stretches = -(-blocks // 6)
    total = np.zeros(x.shape)
    for stretch in range(stretches):
        begin, end = (64 * (blocks * at // stretches) for at in (stretch, stretch + 1))
        part = x[:, begin:end]
        largest = np.abs(part).max(axis=-1, keepdims=True)
        scale = (largest * np.float32(1 / 127)).astype(np.float64)
        left = part * (np.float32(127) / largest)
        for _ in range(2):
            q = np.rint(left)
            total[:, begin:end] += q * scale
            left = (left - q) * np.float32(28)
            scale /= 28
    return total


def as_kernel_sees(x: Floats, kind: str, isa: str) -> Doubles:
    if kind == "f32":
        return x.astype(np.float64)
    if kind == "int16":
        return as_int16(x)
    least_share = 0.0 if isa == "avx2" else LEAST_SHARE
    return as_bf16(x) if kind == "bf16" else as_int8(x, 1 if kind == "int8" else 2, least_share)


def pack(name: str, n: int, k: int, isa: str, threads: int = 1) -> _native.PackedMatrix:
    return _native.pack_matrix(name, weights(name, n, k)[0].reshape(-1), n, k, isa, threads)


def kinds_of(packed: _native.PackedMatrix) -> list[str]:
    kind = packed.activation_kind
    return [kind, "int8x2"] if kind == "int8" else [kind]


def multiply(
    packed: _native.PackedMatrix,
    n: int,
    x: Floats,
    kind: str,
    isa: str,
    bias: Floats | None = None,
    threads: int = 1,
    splits: tuple[int, ...] = (),
) -> Floats:
    """y (m, n), strip range by strip range; nothing around any buffer may change."""
    rows = _native.quantize_rows(x, kind, isa)
    around = np.full((len(x) + 2, n + 64), SENTINEL, np.float32)
    y = around[1:-1, 32:-32]
    edges = (0, *splits, packed.num_strips)
    for begin, end in pairwise(edges):
        packed.multiply(rows, bias, y, threads, begin, end)
    result = y.copy()
    y[:] = SENTINEL
    assert (around == SENTINEL).all()
    assert rows.intact
    assert packed.intact
    return result


def distance(y: Floats, reference: Doubles) -> float:
    return float(np.linalg.norm(y - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", PACKED)
def test_every_shape_is_as_near_as_its_format_allows(name: str, isa: str) -> None:
    for k in widths(name):
        raw, meaning = weights(name, max(SHAPES_N), k)
        x = activations(5, k)
        for n in SHAPES_N:
            packed = _native.pack_matrix(name, raw[:n].reshape(-1), n, k, isa)
            bias = np.linspace(-1, 1, n, dtype=np.float32)
            for kind in kinds_of(packed):
                seen = as_kernel_sees(x, kind, isa) @ meaning[:n].T
                exact = x.astype(np.float64) @ meaning[:n].T
                y = multiply(packed, n, x, kind, isa)
                # Few outputs may cancel: the bound is on what their sums are made of.
                size = np.linalg.norm(np.abs(x) @ np.abs(meaning[:n].T)) / np.sqrt(k)
                layout = layout_error(name, kind, isa) * size
                assert np.linalg.norm(y - seen) <= layout, (k, n, kind)
                error = ACTIVATION_ERROR[kind]
                if kind == "int8x2" and (isa == "avx2" or k == 32):
                    error = ALL_SECOND_TERMS_ERROR
                assert np.linalg.norm(y - exact) <= layout + error * size
                biased = multiply(packed, n, x, kind, isa, bias)
                assert np.allclose(biased, y + bias, rtol=0, atol=1e-6 * (1 + np.abs(y).max()))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", PACKED)
def test_a_row_is_the_same_bits_however_it_is_computed(name: str, isa: str) -> None:
    n, k = 100, widths(name)[-1]
    packed = pack(name, n, k, isa)
    x = activations(200, k)
    for kind in kinds_of(packed):
        whole = multiply(packed, n, x, kind, isa)
        for m in (1, 2, 3, 4, 6, 7, 12, 13, 16, 31, 64):
            start = 200 - m
            assert np.array_equal(multiply(packed, n, x[start:], kind, isa), whole[start:]), (
                kind,
                m,
            )
        for m in (1, 5, 40):
            for split in range(1, packed.num_strips):
                y = multiply(packed, n, x[:m], kind, isa, splits=(split,))
                assert np.array_equal(y, whole[:m]), (kind, m, split)
            assert np.array_equal(multiply(packed, n, x[:m], kind, isa, threads=2), whole[:m])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["Q8_0", "Q4_1", "Q6_K"])
def test_a_second_term_is_where_a_row_has_most(name: str, isa: str) -> None:
    """Two groups of eight have nearly all of the magnitude, in each row others: they are as near as
    two terms are, and what the rest lost is little beside them.
    """
    n, k, m = 64, 256, 20
    packed = pack(name, n, k, isa)
    if "int8x2" not in kinds_of(packed):
        pytest.skip("activations are int16 here")
    x = activations(m, k).reshape(m, 8, 32)
    for row in range(m):
        x[row, [row % 8, (row + 3) % 8]] *= 30
    x = x.reshape(m, k)
    meaning = weights(name, n, k)[1]
    exact = x.astype(np.float64) @ meaning.T
    errors = {
        kind: distance(multiply(packed, n, x, kind, isa), exact) for kind in ("int8", "int8x2")
    }
    assert errors["int8x2"] < errors["int8"] / 10, errors
    # Alone or beside rows that have their second terms elsewhere: the same bits.
    whole = multiply(packed, n, x, "int8x2", isa)
    for row in range(m):
        assert np.array_equal(multiply(packed, n, x[row : row + 1], "int8x2", isa)[0], whole[row])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", PACKED)
def test_a_row_that_is_not_finite_stays_alone(name: str, isa: str) -> None:
    n, k = 48, 256
    packed = pack(name, n, k, isa)
    x = activations(20, k)
    broken = x.copy()
    broken[3, 100], broken[17, 0], broken[18] = np.nan, np.inf, -np.inf
    fine = np.ones(20, bool)
    fine[[3, 17, 18]] = False
    for kind in kinds_of(packed):
        clean, y = multiply(packed, n, x, kind, isa), multiply(packed, n, broken, kind, isa)
        assert np.array_equal(y[fine], clean[fine])
        assert not np.isfinite(y[~fine]).any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", PACKED)
def test_zero_and_almost_zero_rows(name: str, isa: str) -> None:
    n, k = 33, 256
    packed = pack(name, n, k, isa)
    bias = np.arange(n, dtype=np.float32)
    x = activations(3, k) * np.array([[0], [1e-36], [1e-44]], np.float32)
    for kind in kinds_of(packed):
        y = multiply(packed, n, x, kind, isa, bias)
        assert np.array_equal(y[0], bias)
        assert np.allclose(y, bias, rtol=0, atol=1e-30)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", PACKED)
def test_packing_by_parts_and_its_size(name: str, isa: str) -> None:
    n, k = 320, 512
    whole = pack(name, n, k, isa)
    assert whole.tobytes() == pack(name, n, k, isa, threads=3).tobytes()
    units = 4 * n if whole.activation_kind == "int16" else 0
    if isa == "avx512" and name in PAIRS:
        units = 2 * n
    assert whole.num_bytes == n * k * PACKED_BITS[name] / 8 + units


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", PACKED)
def test_decoding_a_row_is_bit_equal(name: str, isa: str) -> None:
    k = 512
    raw = np.random.default_rng(7).integers(0, 256, (16, FORMATS[name].num_bytes((k,))), np.uint8)
    expected = dequantize(raw.reshape(-1), name, (16, k))
    decoded = np.zeros((16, k), np.float32)
    for row, out in zip(raw, decoded, strict=True):
        _native.decode_row(name, row, out, isa)
    same = decoded.view(np.uint32) == expected.view(np.uint32)
    assert (same | (np.isnan(decoded) & np.isnan(expected))).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", [name for name in PACKED if FORMATS[name].integers])
def test_any_finite_weights_give_finite_sums(name: str, isa: str) -> None:
    """Random bytes: scales over all of float16's (or E8M0's) range."""
    n, k = 32, 256
    # Beyond float16's range a minimum is held at its end: no model has one.
    limit = 3e4 if name in ("Q4_1", "Q5_1") else 1e33
    rng = np.random.default_rng(11)
    raw = rng.integers(0, 256, (4096, FORMATS[name].num_bytes((k,))), np.uint8)
    meaning = dequantize(raw.reshape(-1), name, (4096, k))
    finite = np.isfinite(meaning).all(axis=1) & (np.abs(meaning).max(axis=1) < limit)
    raw, meaning = raw[finite][:n], meaning[finite][:n].astype(np.float64)
    x = activations(4, k)
    packed = _native.pack_matrix(name, raw.reshape(-1), n, k, isa)
    kind = packed.activation_kind
    y = multiply(packed, n, x, kind, isa)
    assert np.isfinite(y).all()
    # Beside the matrix's largest scale small ones may vanish; what they add is lost in the norm.
    bound = 2e-3 + layout_error(name, kind, isa)
    assert distance(y, as_kernel_sees(x, kind, isa) @ meaning.T) < bound


@pytest.mark.parametrize("isa", ISAS)
def test_groups_of_very_different_size_keep_their_precision(isa: str) -> None:
    """Six decades between the scales of one matrix, as in a file with a few large channels."""
    n, k = 32, 512
    rng = np.random.default_rng(3)
    values = rng.standard_normal((n, k)) * 10.0 ** rng.uniform(-6, 0, (n, 1))
    x = activations(4, k)
    for name in ("Q4_K", "Q5_K", "Q6_K", "Q3_K", "MXFP4"):
        raw = quantize(values.astype(np.float32), name)
        meaning = dequantize(raw, name, (n, k)).astype(np.float64)
        packed = _native.pack_matrix(name, raw, n, k, isa)
        y = multiply(packed, n, x, packed.activation_kind, isa)
        seen = as_kernel_sees(x, packed.activation_kind, isa) @ meaning.T
        # Each channel by itself: a small one may not hide behind a large one.
        error, size = np.linalg.norm(y - seen, axis=0), np.linalg.norm(seen, axis=0)
        bound = max(3e-3, 2 * layout_error(name, packed.activation_kind, isa))
        assert (error <= bound * size).all(), name


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q8_0"])
def test_sums_as_large_as_they_can_be(name: str, isa: str) -> None:
    """Codes and activations at the ends of their ranges, of either sign, in each group."""
    k, ends = 128, (-8, 7) if name != "Q8_0" else (-127, 127)
    signs = np.array(np.meshgrid(*[(0, 1)] * 4, indexing="ij")).reshape(4, -1).T  # of four groups
    values = np.repeat(np.where(signs, ends[1], ends[0]), 32, axis=1).astype(np.float32)
    raw = quantize(values, name)
    meaning = dequantize(raw, name, (16, k)).astype(np.float64)
    x = np.repeat(np.where(signs, 127, -127), 32, axis=1).astype(np.float32)
    packed = _native.pack_matrix(name, raw, 16, k, isa)
    for kind in kinds_of(packed):
        y = multiply(packed, 16, x, kind, isa)
        bound = 1e-4 + layout_error(name, kind, isa)
        size = np.abs(x).astype(np.float64) @ np.abs(meaning).T
        assert (np.abs(y - x.astype(np.float64) @ meaning.T) <= bound * size).all(), kind


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", PAIRS)
def test_a_small_group_keeps_what_a_large_one_beside_it_leaves(name: str, isa: str) -> None:
    """A group a hundredth of the other of its pair: its part is not lost, though it is rounded."""
    n, k = 64, 256
    packed = pack(name, n, k, isa)
    kind = packed.activation_kind
    x = activations(8, k).reshape(8, 8, 32)
    x[:, ::2] /= 100
    meaning = weights(name, n, k)[1].reshape(n, 8, 32)
    y = multiply(packed, n, x.reshape(8, k), kind, isa)
    large = x.copy()
    large[:, ::2] = 0
    rest = y - multiply(packed, n, large.reshape(8, k), kind, isa)
    small = np.einsum("mgk,ngk->mn", x[:, ::2].astype(np.float64), meaning[:, ::2])
    assert distance(rest, small) < 0.05


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["int8", "int8x2", "bf16", "f32"])
def test_rows_fit_the_room_that_values_are_given(kind: str, isa: str) -> None:
    """The arena is laid out by activation_row_bytes, which asks no instruction set."""
    for k in (32, 64, 96, 576, 2048):
        rows = _native.quantize_rows(activations(3, k), kind, isa)
        assert rows.num_bytes <= 3 * _native.activation_row_bytes(kind, k), k


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", [name for name in PACKED if FORMATS[name].integers])
def test_one_row_and_two_of_two_terms_are_as_many(name: str, isa: str) -> None:
    """Rows of numbers that end a term's range, of any size, and of no number; wide ones, too."""
    for n, k in ((100, 512), (33, 8192), (33, 13056)):
        packed = pack(name, n, k, isa)
        if packed.activation_kind != "int8":
            return
        halves = np.arange(-127.5, 128) * np.float32(1 + 1e-7)
        x = activations(5, k)
        x[1, : len(halves)] = halves
        x[2] = np.resize(np.float32([127, -127, 126.5, -126.5, 63.5001, 0.49999]), k)
        x[3] *= 1e-30
        broken = x.copy()
        broken[0, [3, 70]], broken[1, 5], broken[2, 31] = np.inf, -np.inf, np.nan
        for rows in (x, broken):
            whole = multiply(packed, n, rows, "int8x2", isa)
            for m in (1, 2):
                for start in range(len(x) - m + 1):
                    y = multiply(packed, n, rows[start : start + m], "int8x2", isa)
                    assert np.array_equal(y, whole[start : start + m], equal_nan=True), (k, m)


def test_wrong_arguments_are_refused() -> None:
    packed = pack("Q4_0", 64, 96, "portable")
    x = _native.quantize_rows(activations(2, 96), "int8", "portable")
    y = np.zeros((2, 64), np.float32)
    with pytest.raises(ValueError, match="wrong shape"):
        packed.multiply(x, None, np.zeros((2, 63), np.float32))
    with pytest.raises(ValueError, match="wrong shape"):
        packed.multiply(x, np.zeros(63, np.float32), y)
    with pytest.raises(ValueError, match="strips"):
        packed.multiply(x, None, y, 1, 1, 3)
    for kind, k in (("bf16", 96), ("f32", 96), ("int8", 64)):
        with pytest.raises(ValueError, match="another"):
            packed.multiply(_native.quantize_rows(activations(2, k), kind, "portable"), None, y)
    with pytest.raises(ValueError, match="format"):
        _native.pack_matrix("Q9_9", np.zeros(8, np.uint8), 1, 32, "portable")
    with pytest.raises(ValueError, match="instruction set"):
        _native.quantize_rows(activations(2, 96), "int8", "riscv")


def test_every_layout_has_its_bounds() -> None:
    assert set(LAYOUT_ERROR) == set(PACKED_BITS) == set(PACKED)
