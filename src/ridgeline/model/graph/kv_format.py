"""How a cache keeps keys and values: what a graph must know of it. The reference backend has what
the numbers become (`backends/reference/kv_formats.py`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KvFormat:
    """A format of the numbers of a KV cache.

    element_bytes: of a number. scale_bytes: of what stands beside the numbers of one token and
    head, for keys and for values each. max_channels: of a head; None for any.
    """

    name: str
    element_bytes: int
    scale_bytes: int = 0
    max_channels: int | None = None

    def head_bytes(self, channels: int) -> int:
        """Bytes of one token's key, or value, of one head."""
        return channels * self.element_bytes + self.scale_bytes


# f32: the numbers as they were computed. bf16, f16: rounded to nearest, ties to even. int8: codes
# of -127 to 127 with a float32 scale for each token and head; a sum of products with 16-bit
# integers must stay below 2^31, hence 512 channels.
KV_FORMATS: dict[str, KvFormat] = {
    "bf16": KvFormat("bf16", 2),
    "f16": KvFormat("f16", 2),
    "int8": KvFormat("int8", 1, scale_bytes=4, max_channels=512),
    "f32": KvFormat("f32", 4),
}
BF16 = KV_FORMATS["bf16"]
