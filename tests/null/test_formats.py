"""Number formats: decoding against the gguf package's, encoding against its bound, integers against
decoding.
"""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize as oracle_dequantize

from ridgeline.errors import ModelError
from ridgeline.model.formats import (
    CHUNK_ELEMENTS,
    FORMATS,
    decompose,
    dequantize,
    find_format,
    quantize,
)

IN_GGUF = [name for name, each in FORMATS.items() if each.gguf_type is not None]
QUANTIZED = [name for name, each in FORMATS.items() if each.integers is not None]


def oracle(raw: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    rows = raw.reshape(*shape[:-1], -1)
    with np.errstate(all="ignore"):
        return oracle_dequantize(rows, gguf.GGMLQuantizationType[name]).reshape(shape)


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    assert theirs.dtype == np.float32
    assert ours.shape == theirs.shape
    nan = np.isnan(theirs)
    np.testing.assert_array_equal(np.isnan(ours), nan)
    np.testing.assert_array_equal(ours.view(np.uint32)[~nan], theirs.view(np.uint32)[~nan])


def test_table_agrees_with_the_gguf_package() -> None:
    assert set(FORMATS) - set(IN_GGUF) == {"F8_E4M3_128"}
    for name in IN_GGUF:
        each = FORMATS[name]
        kind = gguf.GGMLQuantizationType[name]
        assert (each.name, each.gguf_type) == (name, kind.value)
        assert (each.block_elements, each.block_bytes) == gguf.GGML_QUANT_SIZES[kind]
    assert FORMATS["Q4_K"].bits_per_weight == 4.5
    assert FORMATS["F32"].num_bytes(()) == 4
    assert FORMATS["Q6_K"].num_bytes((3, 512)) == 3 * 2 * 210


@pytest.mark.parametrize("name", IN_GGUF)
def test_decodes_random_bits_as_the_gguf_package(name: str) -> None:
    rng = np.random.default_rng(list(name.encode()))
    shape = (64, 4096)
    raw = rng.integers(0, 256, FORMATS[name].num_bytes(shape), np.uint8)
    assert_same_bits(dequantize(raw, name, shape), oracle(raw, name, shape))


@pytest.mark.parametrize("name", QUANTIZED)
def test_decodes_every_code_under_plain_scales_as_the_gguf_package(name: str) -> None:
    """Random bits rarely give small finite scales; encoded data always does."""
    rng = np.random.default_rng(7)
    values = rng.standard_normal((16, 4096), np.float32) * np.exp(
        rng.uniform(-6, 6, (16, 1)).astype(np.float32)
    )
    raw = quantize(values, name)
    assert_same_bits(dequantize(raw, name, values.shape), oracle(raw, name, values.shape))


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_decodes_every_two_byte_float(name: str) -> None:
    raw = np.arange(1 << 16, dtype="<u2").view(np.uint8)
    assert_same_bits(dequantize(raw, name, (1 << 16,)), oracle(raw, name, (1 << 16,)))


def test_fp8_decodes_every_code() -> None:
    """Sign, four bits of exponent, three of mantissa; no infinity, one NaN of each sign."""
    codes = np.arange(256, dtype=np.uint8)
    scale = np.float32(0.25)
    blocks = np.concatenate(
        [np.r_[half, np.frombuffer(scale.tobytes(), np.uint8)] for half in np.split(codes, 2)]
    )
    found = dequantize(blocks, "F8_E4M3_128", (256,))
    assert np.isnan(found[[0x7F, 0xFF]]).all()
    for code in range(0x7F):
        exponent, mantissa = code >> 3, code & 7
        number = (1 + mantissa / 8) * 2.0 ** (exponent - 7) if exponent else mantissa * 2.0**-9
        assert found[code] == number * 0.25
        assert found[code + 128] == -number * 0.25
    assert found[0x7E] == 448 * 0.25


def test_mxfp4_decodes_every_scale_and_code() -> None:
    scales = np.arange(256, dtype=np.uint8)[:, None]
    codes = np.tile(np.arange(16, dtype=np.uint8) * 17, (256, 1))
    raw = np.concatenate([scales, codes], axis=1).reshape(-1)
    assert_same_bits(dequantize(raw, "MXFP4", (256, 32)), oracle(raw, "MXFP4", (256, 32)))


@pytest.mark.parametrize("name", FORMATS)
def test_encoding_stays_within_the_stated_error(name: str) -> None:
    values = np.random.default_rng(1).standard_normal((16, 4096)).astype(np.float32)
    back = dequantize(quantize(values, name), name, values.shape)
    error = float(np.linalg.norm(back - values) / np.linalg.norm(values))
    bound = FORMATS[name].relative_error
    assert error <= bound
    assert error >= 0.7 * bound, "the bound says nothing if it is far from what is reached"


@pytest.mark.parametrize("name", FORMATS)
def test_encoding_again_what_was_decoded_changes_little(name: str) -> None:
    values = np.random.default_rng(2).standard_normal((4, 512)).astype(np.float32)
    once = dequantize(quantize(values, name), name, values.shape)
    twice = dequantize(quantize(once, name), name, values.shape)
    bound = FORMATS[name].relative_error
    assert np.linalg.norm(twice - once) <= bound * np.linalg.norm(once)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-30])
def test_constant_blocks(name: str, value: float) -> None:
    values = np.full((2, 256), value, np.float32)
    back = dequantize(quantize(values, name), name, values.shape)
    assert np.isfinite(back).all()
    # Float16 scales end at 6e-8; below that a block is zeros.
    tolerance = max(2 * FORMATS[name].relative_error, 0.02) * abs(value) + 1e-7
    assert np.abs(back - values).max() <= tolerance


@pytest.mark.parametrize("name", ["F16", *QUANTIZED])
def test_what_a_format_cannot_hold_is_refused(name: str) -> None:
    values = np.ones((1, 256), np.float32)
    values[0, 3] = np.inf
    with pytest.raises(ModelError, match="not finite"):
        quantize(values, name)
    if name != "MXFP4":
        values[0, 3] = 3e38
        with pytest.raises(ModelError, match="float16"):
            quantize(values, name)


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("source", ["random bits", "encoded"])
def test_integers_say_what_decoding_says(name: str, source: str) -> None:
    rng = np.random.default_rng(3)
    rows, k = 6, 1024
    if source == "encoded":
        raw = quantize(rng.standard_normal((rows, k)), name)
    else:
        raw = rng.integers(0, 256, FORMATS[name].num_bytes((rows, k)), np.uint8)
    parts = decompose(raw, name, (rows, k))
    assert parts.q.dtype == np.int8
    assert parts.q.shape == (rows, k)
    assert parts.group in (16, 32)
    assert parts.scale.dtype == np.float32
    assert parts.scale.shape == (rows, k // parts.group)
    with np.errstate(invalid="ignore"):
        scale = np.repeat(parts.scale.astype(np.float64), parts.group, -1)
        exact = parts.q.astype(np.float64) * scale
        size = np.abs(exact)
        if parts.offset is not None:
            assert parts.offset.dtype == np.float32
            assert parts.offset.shape == parts.scale.shape
            offset = np.repeat(parts.offset.astype(np.float64), parts.group, -1)
            size = np.maximum(size, np.abs(offset))
            exact = exact + offset
    decoded = dequantize(raw, name, (rows, k))
    usable = np.isfinite(decoded)
    assert usable.mean() > 0.8
    # One rounding of the product and one of the sum: a float32 ulp of the larger term.
    difference = np.abs(exact[usable] - decoded[usable])
    assert (difference <= np.maximum(size[usable], 1e-37) * 2.0**-23).all()


RANGES = {
    "Q4_0": (-8, 7, 32),
    "Q4_1": (0, 15, 32),
    "Q5_0": (-16, 15, 32),
    "Q5_1": (0, 31, 32),
    "Q8_0": (-128, 127, 32),
    "Q2_K": (0, 3, 16),
    "Q3_K": (-4, 3, 16),
    "Q4_K": (0, 15, 32),
    "Q5_K": (0, 31, 32),
    "Q6_K": (-32, 31, 16),
    "IQ4_NL": (-127, 113, 32),
    "MXFP4": (-12, 12, 32),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_integers_reach_all_their_range_and_no_more(name: str) -> None:
    raw = np.random.default_rng(4).integers(0, 256, FORMATS[name].num_bytes((64, 1024)), np.uint8)
    parts = decompose(raw, name, (64, 1024))
    assert (parts.q.min(), parts.q.max(), parts.group) == RANGES[name]


@pytest.mark.parametrize("name", ["F32", "Q8_0", "Q4_K"])
def test_pieces_meet_without_a_seam(name: str) -> None:
    """Longer than one chunk, and not a multiple of it: whole equals part by part."""
    shape = (3, CHUNK_ELEMENTS // 2 + 256)
    raw = quantize(np.random.default_rng(5).standard_normal(shape), name)
    whole = dequantize(raw, name, shape)
    rows = raw.reshape(3, -1)
    for i in range(3):
        np.testing.assert_array_equal(whole[i], dequantize(rows[i], name, shape[1:]))


def test_unaligned_read_only_bytes_are_read() -> None:
    values = np.random.default_rng(6).standard_normal((2, 256)).astype(np.float32)
    for name in FORMATS:
        raw = quantize(values, name)
        shifted = np.frombuffer(b"x" + raw.tobytes(), np.uint8)[1:]
        np.testing.assert_array_equal(
            dequantize(shifted, name, values.shape), dequantize(raw, name, values.shape)
        )


def test_wrong_names_and_sizes_are_named() -> None:
    with pytest.raises(ModelError, match=r"no weight format 'Q9_Z'; supported: F32, F16, .*MXFP4"):
        find_format("Q9_Z")
    with pytest.raises(ModelError, match="needs 18 bytes, 17 given"):
        dequantize(np.zeros(17, np.uint8), "Q4_0", (32,))
    with pytest.raises(ModelError, match="row of 33 elements"):
        dequantize(np.zeros(18, np.uint8), "Q4_0", (33,))
    with pytest.raises(ModelError, match="F32 stores no integers"):
        decompose(np.zeros(4, np.uint8), "F32", (1,))
