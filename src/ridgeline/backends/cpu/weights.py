"""What the CPU backend needs of whoever holds a model's weights."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ridgeline.model.graph.node import Weight


class Weights(Protocol):
    """The numbers of a graph's weights, in the bytes of their formats."""

    def raw(self, weight: Weight) -> npt.NDArray[np.uint8]:
        """The weight's `num_bytes` bytes, 1-D; a view if it can be."""

    def float32(self, weight: Weight) -> npt.NDArray[np.float32]:
        """The weight dequantized, in its shape."""

    def entry(self, weight: Weight, index: int) -> npt.NDArray[np.uint8]:
        """The bytes of one entry of the weight's first axis, an expert's; a view if it can be."""

    def release(self, weight: Weight, index: int | None = None) -> None:
        """The bytes, or those of one entry, were used; they need not stay in memory, and are read
        again if touched.
        """
