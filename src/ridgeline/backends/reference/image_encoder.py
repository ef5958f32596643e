"""Runs a tower that makes rows of images, one image a step, on an executor of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ridgeline.backends.reference.row_images import EncodeImage
from ridgeline.errors import EngineError
from ridgeline.step import BLOCK_TOKENS, Image, PlanRow, RowSampling, StepPlan

Floats = npt.NDArray[np.float32]


class Forwards(Protocol):
    """What it asks of an executor whose graph takes patches."""

    def open_row(self, row: int, token_ids: list[int], sampling: RowSampling) -> None: ...
    def close_row(self, row: int) -> None: ...
    def forward(self, plan: StepPlan, *, hidden: Any = None) -> npt.NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class Tower:
    """num_bytes: that it will allocate, known before a weight is read. load: makes it."""

    num_bytes: int
    load: Callable[[], EncodeImage]


def image_blocks(num_patches: int) -> int:
    """KV blocks that the executor needs."""
    return -(-num_patches // BLOCK_TOKENS)


class ImageEncoder:
    """num_patches, num_tokens: of each image. Keeps the rows of the image that was last: an answer
    of several samples, or a prompt that is computed again, asks for it soon.
    """

    def __init__(self, executor: Forwards, num_patches: int, num_tokens: int) -> None:
        self._executor = executor
        self._num_patches = num_patches
        blocks = tuple(range(image_blocks(num_patches)))
        self._plan = StepPlan((PlanRow(0, num_patches, 0, num_tokens, blocks),))
        self._last: tuple[bytes, npt.NDArray[Any]] | None = None

    def __call__(self, image: Image) -> npt.NDArray[Any]:
        """[tokens, width]"""
        if len(image.patches) != self._num_patches:
            raise EngineError(
                f"an image has {len(image.patches)} patches; the model takes {self._num_patches}"
            )
        if self._last is None or self._last[0] != image.name:
            self._executor.open_row(0, [0] * self._num_patches, RowSampling())
            try:
                rows = self._executor.forward(self._plan, hidden=image.patches)
            finally:
                self._executor.close_row(0)
            self._last = (image.name, rows)
        return self._last[1]
