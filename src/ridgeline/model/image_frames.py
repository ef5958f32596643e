"""How an image comes to a model that sees: stretched to what size, and in what patches.

Squares: each to the same square (SigLIP, Zhai et al. 2023). Grids: of a size near its own of whole
cells, patches cell by cell, and windows of cells among these (Qwen2-VL, Wang et al. 2024;
Qwen2.5-VL, Bai et al. 2025); a cell is merge * merge patches, which become one token. Does not know
files nor how graphs are run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ridgeline.errors import RequestError

MAX_ASPECT = 200
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Squares:
    """side: pixels along the square that every image is made; patch: along a patch. num_tokens:
    that an image becomes, each of which sees all of it.
    """

    side: int
    patch: int
    num_tokens: int

    whole: ClassVar[bool] = True
    places: ClassVar[None] = None

    def size(self, width: int, height: int, where: str) -> tuple[int, int]:
        """Width and height that an image is stretched to."""
        return self.side, self.side

    def grid(self, lines: int, columns: int) -> None:
        """Its tokens have no lines and columns."""

    def tokens(self, lines: int, columns: int) -> int:
        return self.num_tokens

    def patches(self, pixels: Pixels, mean: tuple[float, ...], std: tuple[float, ...]) -> Floats:
        """pixels [side, side, channels] -> [patches, channels * patch * patch], line by line."""
        each, patch = self.side // self.patch, self.patch
        whole = _scaled(pixels, mean, std)[: each * patch, : each * patch]
        parts = whole.reshape(each, patch, each, patch, -1).transpose(0, 2, 4, 1, 3)
        return np.ascontiguousarray(parts).reshape(each * each, -1)


@dataclass(frozen=True, slots=True)
class Grids:
    """patch: pixels along a patch's side; merge: patches along a cell's; window: cells along a
    window's, None: there are none. frames: how often an image stands in a patch's numbers. least,
    most: pixels of an image as it comes to the model.
    """

    patch: int
    merge: int
    frames: int
    window: int | None
    least: int
    most: int

    whole: ClassVar[bool] = False

    @property
    def cell(self) -> int:
        """Pixels along a cell's side."""
        return self.patch * self.merge

    def size(self, width: int, height: int, where: str) -> tuple[int, int]:
        """Width and height that an image is stretched to: whole cells, the aspect kept as far as
        these allow. RequestError for one that is longer than MAX_ASPECT times its other side.
        """
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise RequestError(
                where, f"is {width} x {height}; one side may be {MAX_ASPECT} times the other"
            )
        cell = self.cell
        lines, columns = round(height / cell) * cell, round(width / cell) * cell
        if lines * columns > self.most:
            beyond = math.sqrt(height * width / self.most)
            lines = max(cell, math.floor(height / beyond / cell) * cell)
            columns = max(cell, math.floor(width / beyond / cell) * cell)
        elif lines * columns < self.least:
            short = math.sqrt(self.least / (height * width))
            lines = math.ceil(height * short / cell) * cell
            columns = math.ceil(width * short / cell) * cell
        return columns, lines

    def grid(self, lines: int, columns: int) -> tuple[int, int]:
        """Lines and columns of cells, that is of tokens, of an image of such a size."""
        return lines // self.cell, columns // self.cell

    def tokens(self, lines: int, columns: int) -> int:
        return math.prod(self.grid(lines, columns))

    def patches(self, pixels: Pixels, mean: tuple[float, ...], std: tuple[float, ...]) -> Floats:
        """pixels [lines, columns, channels] -> [patches, channels * frames * patch * patch], in the
        order of `places`.
        """
        lines, columns, channels = pixels.shape
        cells = self.grid(lines, columns)
        sides = (self.merge, self.patch)
        parts = _scaled(pixels, mean, std).reshape(cells[0], *sides, cells[1], *sides, channels)
        found = parts.transpose(0, 3, 1, 4, 6, 2, 5)  # cell, its patches, channel, lines, columns
        found = np.repeat(found[:, :, :, :, :, None], self.frames, axis=5)
        by_cell = found.reshape(cells[0] * cells[1], self.merge**2, -1)
        return np.ascontiguousarray(by_cell[self.order(cells)]).reshape(
            -1, channels * self.frames * self.patch**2
        )

    def places(self, grid: tuple[int, int]) -> PatchPlaces:
        """Of the patches of an image of so many lines and columns of cells."""
        lines, columns = (np.arange(count * self.merge) for count in grid)
        at = np.stack(np.meshgrid(lines, columns, indexing="ij"), axis=-1)
        cells = at.reshape(grid[0], self.merge, grid[1], self.merge, 2).transpose(0, 2, 1, 3, 4)
        order = self.order(grid)
        positions = cells.reshape(-1, self.merge**2, 2)[order].reshape(-1, 2)
        ends = None
        if self.window is not None:
            of_window = _windows(grid, self.window).reshape(-1)[order]
            last = np.flatnonzero(np.diff(of_window, append=-1)) + 1
            sizes = np.diff(last, prepend=0)
            ends = np.repeat(last * self.merge**2, sizes * self.merge**2)
        return PatchPlaces(positions, ends, np.argsort(order))

    def order(self, grid: tuple[int, int]) -> Ints:
        """Cells, numbered line by line, in the order in which the model has them."""
        if self.window is None:
            return np.arange(grid[0] * grid[1])
        return np.argsort(_windows(grid, self.window).reshape(-1), kind="stable")


@dataclass(frozen=True, slots=True)
class PatchPlaces:
    """positions [patches, 2]: line and column. part_ends [patches]: one past the last patch of each
    one's window; None: there are no windows. order [tokens]: the row that is a token's, line by
    line.
    """

    positions: Ints
    part_ends: Ints | None
    order: Ints


def _windows(grid: tuple[int, int], window: int) -> Ints:
    """[lines, columns]: the number of each cell's window."""
    lines, columns = (np.arange(count) // window for count in grid)
    across = -(-grid[1] // window)
    return np.asarray(lines[:, None] * across + columns[None, :])


def _scaled(pixels: Pixels, mean: tuple[float, ...], std: tuple[float, ...]) -> Floats:
    """From 0 to 1, less the mean of each channel, by its deviation."""
    unit = pixels.astype(np.float32) * np.float32(1 / 255)
    return np.asarray((unit - np.array(mean, np.float32)) / np.array(std, np.float32))
