"""Runs a tower that makes rows of images, one image a step, on an executor of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ridgeline.backends.reference.row_images import EncodeImage, Places
from ridgeline.errors import EngineError
from ridgeline.model.image_frames import PatchPlaces
from ridgeline.step import BLOCK_TOKENS, Image, PlanRow, RowSampling, StepPlan

Floats = npt.NDArray[np.float32]


class Forwards(Protocol):
    """What it asks of an executor whose graph takes patches."""

    def open_row(self, row: int, token_ids: list[int], sampling: RowSampling) -> None: ...
    def close_row(self, row: int) -> None: ...
    def forward(
        self, plan: StepPlan, *, hidden: Any = None, places: Places | None = None
    ) -> npt.NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class Tower:
    """num_bytes: that it will allocate, known before a weight is read. load: makes it."""

    num_bytes: int
    load: Callable[[], EncodeImage]


def image_blocks(num_patches: int) -> int:
    """KV blocks that the executor needs."""
    return -(-num_patches // BLOCK_TOKENS)


class ImageEncoder:
    """num_patches, num_tokens: of each image, or of the largest where they lie on grids. places:
    of a grid's patches (`Grids.places`). Keeps the rows of the image that was last: an answer
    of several samples, a prompt that is computed again or in chunks, asks for it soon.
    """

    def __init__(
        self,
        executor: Forwards,
        num_patches: int,
        num_tokens: int,
        places: Callable[[tuple[int, int]], PatchPlaces] | None = None,
    ) -> None:
        self._executor = executor
        self._num_patches = num_patches
        self._num_tokens = num_tokens
        self._places = places
        self._last: tuple[bytes, npt.NDArray[Any]] | None = None

    def __call__(self, image: Image) -> npt.NDArray[Any]:
        """[tokens, width]"""
        if self._last is None or self._last[0] != image.name:
            self._last = (image.name, self._encoded(image))
        return self._last[1]

    def _encoded(self, image: Image) -> npt.NDArray[Any]:
        count, on_grid = len(image.patches), image.grid is not None
        if on_grid != (self._places is not None) or count > self._num_patches:
            raise EngineError(f"an image has {count} patches; the model takes {self._num_patches}")
        if not on_grid and count != self._num_patches:
            raise EngineError(f"an image has {count} patches; the model takes {self._num_patches}")
        told, places = None, None
        if image.grid is not None and self._places is not None:
            told = self._places(image.grid)
            places = Places(told.positions, told.part_ends)
            if len(told.positions) != count or len(told.order) != image.count:
                raise EngineError(f"an image of {image.grid} tokens has {count} patches")
        blocks = tuple(range(image_blocks(count)))
        plan = StepPlan((PlanRow(0, count, 0, image.count, blocks),))
        self._executor.open_row(0, [0] * count, RowSampling())
        try:
            rows = self._executor.forward(plan, hidden=image.patches, places=places)
        finally:
            self._executor.close_row(0)
        return rows if told is None else rows[told.order]
