"""How a cache keeps keys and values: what a graph must know of it. The reference backend has what
the numbers become (`backends/reference/kv_formats.py`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KvFormat:
    """A format of the numbers of a KV cache.

    element_bytes: of a number. scale_bytes: of what stands beside the numbers of one token and
    head, for keys and for values each. max_channels: of a head; None for any. balanced: keys are
    evened out by their state's balance.
    """

    name: str
    element_bytes: int
    scale_bytes: int = 0
    max_channels: int | None = None
    balanced: bool = False

    def head_bytes(self, channels: int) -> int:
        """Bytes of one token's key, or value, of one head."""
        return channels * self.element_bytes + self.scale_bytes


@dataclass(frozen=True, slots=True)
class KeyBalance:
    """(key - centre) / 2^exponent is what is kept of a key; both of each channel of each KV head,
    kv_heads * key_dim of them. `passes/balance.py` says why and which.
    """

    centres: tuple[float, ...]
    exponents: tuple[int, ...]

    def part(self, first: int, count: int) -> KeyBalance:
        """Of `count` channels from `first` on."""
        there = slice(first, first + count)
        return KeyBalance(self.centres[there], self.exponents[there])


# f32: the numbers as they were computed. bf16, f16: rounded to nearest, ties to even. int8: codes
# of -127 to 127 with a float32 scale for each token and head, of values as they are and of keys
# after a Hadamard transform of the head's channels, which evens out the large ones; a sum of
# products with 16-bit integers must stay below 2^31, hence 512 channels.
KV_FORMATS: dict[str, KvFormat] = {
    "bf16": KvFormat("bf16", 2),
    "f16": KvFormat("f16", 2),
    "int8": KvFormat("int8", 1, scale_bytes=4, max_channels=512, balanced=True),
    "f32": KvFormat("f32", 4),
}
BF16 = KV_FORMATS["bf16"]
