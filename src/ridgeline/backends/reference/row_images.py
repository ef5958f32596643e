"""The images of an executor's rows: which of their tokens a step has, what stands for these, and
which positions of three axes (mrope) they and the tokens behind them have.

An image's rows are made when its tokens are computed, and not kept: what the cache has of a prompt
is not made at all. Does not know how an encoder runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ridgeline.errors import EngineError
from ridgeline.step import Image, StepPlan

Ints = npt.NDArray[np.int64]
EncodeImage = Callable[[Image], npt.NDArray[Any]]


class Part(NamedTuple):
    """Of an image, what a step computes: `rows` [tokens, width] for the step's tokens from
    token_begin on; the first of them stands at `position` in its row.
    """

    token_begin: int
    position: int
    rows: npt.NDArray[Any]

    @property
    def last_position(self) -> int:
        return self.position + len(self.rows) - 1


class Places(NamedTuple):
    """What a step tells of its tokens' places beside the plan.

    positions [tokens, axes]: what rotations with axes turn by. part_ends [tokens]: one past the
    last position of the part of its row that a token is in; None: rows have no parts.
    """

    positions: Ints
    part_ends: Ints | None = None


class RowImages:
    """Owns what rows were given. encode: an image's patches -> [its tokens, width]; None: the model
    sees no images.
    """

    def __init__(self, encode: EncodeImage | None) -> None:
        self._encode = encode
        self._of_row: dict[int, tuple[Image, ...]] = {}

    def give(self, row: int, images: Sequence[Image]) -> None:
        """In the order of their tokens, before the row's first plan."""
        if self._encode is None:
            raise EngineError(f"row {row}: the model sees no images")
        ends = [0, *(image.end for image in images)]
        if any(i.first < end or i.count < 1 for i, end in zip(images, ends, strict=False)):
            raise EngineError(f"row {row}: its images lie over one another")
        self._of_row[row] = tuple(images)

    def of(self, row: int) -> tuple[Image, ...]:
        return self._of_row.get(row, ())

    def forget(self, row: int) -> None:
        self._of_row.pop(row, None)

    def parts(self, plan: StepPlan) -> list[Part]:
        """In the order of the step's tokens. EngineError if an image that must be whole ends in
        another step.
        """
        found: list[Part] = []
        token_begin = 0
        for row in plan.rows:
            begin, end = row.num_context, row.num_context + row.num_new
            for image in self._of_row.get(row.row, ()):
                if image.end <= begin or image.first >= end:
                    continue
                if image.whole and image.end > end:
                    raise EngineError(f"row {row.row}: a step ends within an image")
                assert self._encode is not None
                rows = self._encode(image)
                if len(rows) != image.count:
                    raise EngineError(
                        f"row {row.row}: an image has {image.count} tokens; there are {len(rows)}"
                    )
                first = max(image.first, begin)
                part = rows[first - image.first : min(image.end, end) - image.first]
                found.append(Part(token_begin + first - begin, first, part))
            token_begin += row.num_new
        return found

    def places(self, plan: StepPlan) -> Places | None:
        """Of the step's tokens, if one of its rows has an image whose tokens lie on a grid."""
        if not self._of_row or not any(
            image.grid is not None for row in plan.rows for image in self._of_row.get(row.row, ())
        ):
            return None
        found = [
            grid_positions(self._of_row.get(row.row, ()), row.num_context, row.num_new)
            for row in plan.rows
        ]
        return Places(np.concatenate(found))


def grid_positions(images: Sequence[Image], num_context: int, num_new: int) -> Ints:
    """Of a row's tokens from `num_context` on: [num_new, 3], time, line and column (Qwen2-VL, Wang
    et al. 2024). A text's are all its place, less what images before it have more tokens than steps
    along their longer side; an image's count from there by line and column, and its time stands.
    """
    index = np.arange(num_context, num_context + num_new)
    found = np.repeat(index[:, None], 3, axis=1)
    shift = 0
    for image in images:
        if image.grid is None or image.first >= num_context + num_new:
            continue
        lines, columns = image.grid
        at = index - image.first
        inside = (at >= 0) & (at < image.count)
        steps = np.stack([np.zeros_like(at), at // columns, at % columns], axis=1)
        found[inside] = image.first - shift + steps[inside]
        shift += image.count - max(lines, columns)
        behind = index >= image.end
        found[behind] = index[behind, None] - shift
    return found


def last_seen(parts: Sequence[Part], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of each token of a step, the last position that it sees where images are seen whole;
    positions: its own.
    """
    seen = positions.copy()
    for part in parts:
        seen[part.token_begin : part.token_begin + len(part.rows)] = part.last_position
    return seen
