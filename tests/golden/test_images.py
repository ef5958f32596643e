"""A model that sees images: the tower's rows and the logits against transformers', and the same
bits however a prompt with images is computed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from seeing_executors import seeing_cpu, seeing_reference, tower_cpu, tower_reference
from test_cpu import AVAILABLE, BOUNDS
from test_logits import BOUND, Floats, distance

from block_entries import spread
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.backends.reference.image_encoder import ImageEncoder
from ridgeline.errors import EngineError
from ridgeline.model.images import ImageModel, open_images
from ridgeline.model.opened import OpenedModel, open_model
from ridgeline.step import Image, PlanRow, RowSampling, StepPlan
from threads import OTHER, USUAL

HERE = Path(__file__).parent / "images" / "gemma3"
# Chunks of a prompt that cut none of its images, which lie at 7 to 11 and 20 to 24.
CHUNKS = ([32], [7, 4, 9, 12], [12, 20], [6, 6, 5, 15])


@pytest.fixture(scope="module")
def opened() -> tuple[OpenedModel, ImageModel]:
    model = open_model(HERE)
    tower = open_images(model)
    assert tower is not None
    return model, tower


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(HERE / "expected.npz") as arrays:
        return dict(arrays)


def encoder(tower: ImageModel, inner: ReferenceExecutor | CpuExecutor) -> ImageEncoder:
    return ImageEncoder(inner, tower.num_patches, tower.num_tokens)


def reference(opened: tuple[OpenedModel, ImageModel]) -> ReferenceExecutor:
    model, tower = opened
    inner = tower_reference(tower, tower.num_patches)
    return seeing_reference(model, encoder(tower, inner))


def cpu(
    opened: tuple[OpenedModel, ImageModel], isa: str | None, threads: int = USUAL
) -> CpuExecutor:
    model, tower = opened
    inner = tower_cpu(tower, tower.num_patches, tower.num_tokens, isa, threads)
    return seeing_cpu(model, encoder(tower, inner), isa, threads)


def images_of(tower: ImageModel, expected: dict[str, np.ndarray]) -> list[Image]:
    found = []
    for pixels, (first, count) in zip(expected["pixels"], expected["images"], strict=True):
        found.append(tower.image(int(first), pixels))
        assert found[-1].count == count
    return found


def computed(
    executor: ReferenceExecutor | CpuExecutor,
    token_ids: list[int],
    images: list[Image],
    chunks: list[int],
    row: int = 0,
) -> Floats:
    executor.open_row(row, token_ids, RowSampling())
    executor.give_images(row, images)
    parts, done = [], 0
    for n in chunks:
        blocks = spread(executor, (5, 2, 9) if done == 0 else ())
        parts.append(executor.forward(StepPlan((PlanRow(row, n, done, n, blocks),))))
        done += n
    executor.close_row(row)
    return np.concatenate(parts)


def test_the_tower_is_transformers(
    opened: tuple[OpenedModel, ImageModel], expected: dict[str, np.ndarray]
) -> None:
    _, tower = opened
    encode = encoder(tower, tower_reference(tower, tower.num_patches))
    for image, rows in zip(images_of(tower, expected), expected["rows"], strict=True):
        assert distance(encode(image), rows) < BOUND


def test_reference_is_transformers(
    opened: tuple[OpenedModel, ImageModel], expected: dict[str, np.ndarray]
) -> None:
    images = images_of(opened[1], expected)
    ids = expected["token_ids"].tolist()
    for chunks in CHUNKS:
        found = computed(reference(opened), ids, images, chunks)
        assert distance(found, expected["logits"]) < BOUND


@pytest.mark.parametrize("isa", AVAILABLE)
def test_cpu_is_transformers_and_itself(
    opened: tuple[OpenedModel, ImageModel], expected: dict[str, np.ndarray], isa: str
) -> None:
    """Close to transformers; the same bits in any chunks and with any number of threads."""
    images = images_of(opened[1], expected)
    ids = expected["token_ids"].tolist()
    first = computed(cpu(opened, isa), ids, images, CHUNKS[0])
    assert distance(first, expected["logits"]) < BOUNDS["BF16"]
    for chunks in CHUNKS[1:]:
        assert np.array_equal(computed(cpu(opened, isa), ids, images, chunks), first)
    assert np.array_equal(computed(cpu(opened, isa, threads=OTHER), ids, images, CHUNKS[0]), first)


def test_rows_do_not_see_each_others_images(
    opened: tuple[OpenedModel, ImageModel], expected: dict[str, np.ndarray]
) -> None:
    """Two rows with the images the other way round, and one of text, in one step."""
    images = images_of(opened[1], expected)
    turned = [
        Image(place.first, place.count, seen.patches, seen.name)
        for place, seen in zip(images, reversed(images), strict=True)
    ]
    ids = expected["token_ids"].tolist()
    alone = [
        computed(cpu(opened, None), ids, given, [32]) if given else None
        for given in (images, turned)
    ]
    executor = cpu(opened, None)
    text = [1, 2, 3, 4, 5]
    for row, (tokens, given) in enumerate(((ids, images), (text, []), (ids, turned))):
        executor.open_row(row, tokens, RowSampling())
        if given:
            executor.give_images(row, given)
    rows = [
        PlanRow(row, n, 0, n, spread(executor, blocks))
        for row, n, blocks in ((0, 32, (0, 1)), (1, 5, (2,)), (2, 32, (3, 4)))
    ]
    found = executor.forward(StepPlan(tuple(rows)))
    assert np.array_equal(found[:32], alone[0])
    assert np.array_equal(found[37:], alone[1])
    assert not np.array_equal(found[:32], found[37:])
    # The step after it has no images.
    executor.close_row(0)
    executor.open_row(0, text, RowSampling())
    plan = StepPlan((PlanRow(0, 5, 0, 5, spread(executor, (6,))),))
    assert np.array_equal(executor.forward(plan), found[32:37])


def test_an_image_is_computed_in_one_step(
    opened: tuple[OpenedModel, ImageModel], expected: dict[str, np.ndarray]
) -> None:
    ids, images = expected["token_ids"].tolist(), images_of(opened[1], expected)
    for executor in (reference(opened), cpu(opened, None)):
        with pytest.raises(EngineError, match="ends within an image"):
            computed(executor, ids, images, [9, 23])
