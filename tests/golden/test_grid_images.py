"""Models that see images of any size (Qwen2-VL, Qwen2.5-VL): patches, rows, positions and logits
against transformers', and the same bits however a prompt with images is computed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from seeing_executors import seeing_cpu, seeing_reference, tower_cpu, tower_reference
from test_cpu import AVAILABLE, BOUNDS
from test_images import computed
from test_logits import BOUND, distance

from block_entries import spread
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.backends.reference.image_encoder import ImageEncoder
from ridgeline.backends.reference.row_images import grid_positions
from ridgeline.errors import EngineError
from ridgeline.model.image_files import pixels_of
from ridgeline.model.image_frames import Grids
from ridgeline.model.images import ImageModel, open_images
from ridgeline.model.opened import OpenedModel, open_model
from ridgeline.step import Image, PlanRow, RowSampling, StepPlan
from threads import OTHER, USUAL

HERE = Path(__file__).parent / "images"
PATCHES = 60  # of the larger image
# Of 39 tokens; the images lie at 7 to 22 and 30 to 32, and some chunks end within them.
CHUNKS = ([39], [7, 15, 8, 9], [10, 1, 20, 8], [1] * 39, [31, 8])


class Golden(NamedTuple):
    model: OpenedModel
    tower: ImageModel
    arrays: dict[str, np.ndarray]
    images: list[Image]

    @property
    def ids(self) -> list[int]:
        return [int(i) for i in self.arrays["token_ids"]]

    @property
    def grids(self) -> Grids:
        assert isinstance(self.tower.frame, Grids)
        return self.tower.frame

    def encoder(self, inner: ReferenceExecutor | CpuExecutor) -> ImageEncoder:
        return ImageEncoder(inner, PATCHES, PATCHES // 4, self.tower.frame.places)


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def golden(request: pytest.FixtureRequest) -> Golden:
    folder = HERE / request.param
    model = open_model(folder)
    tower = open_images(model)
    assert tower is not None
    with np.load(folder / "expected.npz") as found:
        arrays = dict(found)
    images = [
        tower.image(int(first), arrays[f"pixels_{i}"])
        for i, (first, _) in enumerate(arrays["images"])
    ]
    assert [image.count for image in images] == [count for _, count in arrays["images"]]
    return Golden(model, tower, arrays, images)


def small_reference(golden: Golden) -> ReferenceExecutor:
    return tower_reference(golden.tower, PATCHES)


def reference(golden: Golden) -> ReferenceExecutor:
    return seeing_reference(golden.model, golden.encoder(small_reference(golden)))


def small_cpu(golden: Golden, isa: str | None, threads: int = USUAL) -> CpuExecutor:
    return tower_cpu(golden.tower, PATCHES, PATCHES // 4, isa, threads)


def cpu(golden: Golden, isa: str | None, threads: int = USUAL) -> CpuExecutor:
    return seeing_cpu(golden.model, golden.encoder(small_cpu(golden, isa, threads)), isa, threads)


def test_patches_are_the_processors(golden: Golden) -> None:
    """Their numbers, though ours stand in the order of windows."""
    for i, image in enumerate(golden.images):
        assert image.grid is not None
        order = golden.grids.order(image.grid)
        theirs = golden.arrays[f"patches_{i}"]
        by_cell = theirs.reshape(image.count, 4, -1)[order].reshape(theirs.shape)
        assert np.abs(image.patches - by_cell).max() < 1e-6


def test_sizes_are_the_processors(golden: Golden) -> None:
    arrays, tower = golden.arrays, golden.tower
    for i in range(4):
        pixels = pixels_of(arrays[f"other_{i}"], tower.size_for, "image", bicubic=tower.bicubic)
        image = tower.image(0, pixels)
        assert image.grid is not None
        assert [2 * n for n in image.grid] == arrays[f"other_grid_{i}"].tolist()
        theirs = arrays[f"other_patches_{i}"]
        by_cell = theirs.reshape(image.count, 4, -1)[golden.grids.order(image.grid)]
        assert np.abs(image.patches - by_cell.reshape(theirs.shape)).max() < 1e-6


def test_positions_are_transformers(golden: Golden) -> None:
    theirs = golden.arrays["positions"]
    assert np.array_equal(grid_positions(golden.images, 0, len(theirs)), theirs)
    for begin in range(len(theirs)):
        assert np.array_equal(grid_positions(golden.images, begin, 1), theirs[begin : begin + 1])


def test_the_tower_is_transformers(golden: Golden) -> None:
    for inner, bound in ((small_reference(golden), BOUND), (small_cpu(golden, None), 2e-2)):
        encode = golden.encoder(inner)
        for i, image in enumerate(golden.images):
            assert distance(encode(image), golden.arrays[f"rows_{i}"]) < bound


@pytest.mark.parametrize("isa", AVAILABLE)
def test_a_large_image_is_the_references(golden: Golden, isa: str) -> None:
    """Patches of several chunks of attention, windows cut at two edges; with 1 and 2 threads."""
    frame = replace(golden.grids, most=1 << 20)
    tower = replace(golden.tower, frame=frame)
    pixels = np.random.default_rng(5).integers(0, 256, (88, 136, 3), np.uint8)  # 11 x 17 cells
    image = tower.image(0, pixels)
    count = len(image.patches)
    assert count == 4 * 11 * 17
    expected = ImageEncoder(tower_reference(tower, count), count, count // 4, frame.places)(image)
    found = []
    for threads in (1, 2):
        executor = tower_cpu(tower, count, count // 4, isa, threads)
        found.append(ImageEncoder(executor, count, count // 4, frame.places)(image))
    assert distance(found[0], expected) < 2e-2
    assert np.array_equal(found[0], found[1])


def test_reference_is_transformers(golden: Golden) -> None:
    for chunks in CHUNKS:
        found = computed(reference(golden), golden.ids, golden.images, chunks)
        assert distance(found, golden.arrays["logits"]) < BOUND


@pytest.mark.parametrize("isa", AVAILABLE)
def test_cpu_is_transformers_and_itself(golden: Golden, isa: str) -> None:
    """Close to transformers; the same bits in any chunks and with any number of threads."""
    executor = cpu(golden, isa)
    first = computed(executor, golden.ids, golden.images, CHUNKS[0])
    assert distance(first, golden.arrays["logits"]) < BOUNDS["BF16"]
    for chunks in CHUNKS[1:]:
        assert np.array_equal(computed(executor, golden.ids, golden.images, chunks), first)
    alone = cpu(golden, isa, threads=OTHER)
    assert np.array_equal(computed(alone, golden.ids, golden.images, CHUNKS[2]), first)


def test_rows_do_not_see_each_others_images(golden: Golden) -> None:
    """Rows of text, with images, and with one of them, in one step; then each decodes in it."""
    ids, images = golden.ids, golden.images
    rows = [(ids, images), ([1, 2, 3, 4, 5], []), (ids[:25], images[:1])]
    alone = [
        computed(cpu(golden, None), tokens, given, [len(tokens) - 1, 1])
        if given
        else computed_text(cpu(golden, None), tokens)
        for tokens, given in rows
    ]
    executor = cpu(golden, None)
    lines, last = [], []
    for row, (tokens, given) in enumerate(rows):
        executor.open_row(row, tokens, RowSampling())
        if given:
            executor.give_images(row, given)
        blocks = spread(executor, (3 * row, 3 * row + 1, 3 * row + 2))
        lines.append(PlanRow(row, len(tokens) - 1, 0, len(tokens) - 1, blocks))
        last.append(PlanRow(row, 1, len(tokens) - 1, 1))
    first = executor.forward(StepPlan(tuple(lines)))
    second = executor.forward(StepPlan(tuple(last)))
    ends = np.cumsum([0, *(line.num_new for line in lines)])
    for row, expected in enumerate(alone):
        assert np.array_equal(first[ends[row] : ends[row + 1]], expected[:-1])
        assert np.array_equal(second[row], expected[-1])


def computed_text(executor: CpuExecutor, tokens: list[int]) -> np.ndarray:
    executor.open_row(0, tokens, RowSampling())
    plan = StepPlan((PlanRow(0, len(tokens), 0, len(tokens), spread(executor, (1,))),))
    return executor.forward(plan)


def test_a_tower_needs_to_know_where_patches_lie(golden: Golden) -> None:
    image = golden.images[1]
    plan = StepPlan((PlanRow(0, 8, 0, 2, (0,)),))
    for inner in (small_reference(golden), small_cpu(golden, None)):
        with pytest.raises(EngineError, match="patches"):
            ImageEncoder(inner, 4, 1, golden.grids.places)(image)
        if golden.grids.window is not None:
            inner.open_row(0, [0] * 8, RowSampling())
            with pytest.raises(EngineError, match="parts"):
                inner.forward(plan, hidden=image.patches)
            inner.close_row(0)
