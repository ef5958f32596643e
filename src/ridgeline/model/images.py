"""The part of a model that sees: an image becomes patches, patches become rows in place of tokens.

Does not know how graphs are run, nor where images come from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from ridgeline.errors import ModelError, RequestError
from ridgeline.model.architectures import find_architecture
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.qwen2_vl import Cells
from ridgeline.model.architectures.siglip import read_patch
from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import GridPool
from ridgeline.model.image_frames import Grids, Pixels, Squares
from ridgeline.model.opened import OpenedModel
from ridgeline.model.weights.bound import BoundWeights, bind, stored_format
from ridgeline.step import Image

PREPROCESSOR = "preprocessor_config.json"
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers, which files have
MOST_IN_FILES = 1 << 28  # pixels of an image
# Of CLIP (Radford et al. 2021), which Qwen2-VL's processor has by itself.
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


@dataclass(frozen=True, slots=True)
class ImageModel:
    """What makes rows of images, and how an image is brought to it.

    graph, weights: patches -> rows. frame: the size and the patches in which an image comes.
    num_tokens: that stand for an image, at most. channels, mean, std: of pixels from 0 to 1, by
    channel. token: the id that stands for an image in a prompt; begin, end: ids around it that are
    written with it, if any. bicubic: how an image is stretched; else bilinear.
    """

    graph: Graph
    weights: BoundWeights
    frame: Squares | Grids
    channels: int
    num_tokens: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    token: int
    begin: int | None
    end: int | None
    bicubic: bool

    @property
    def num_patches(self) -> int:
        """Of an image, at most."""
        return self.graph.max_context

    def size_for(self, width: int, height: int, where: str) -> tuple[int, int]:
        """Width and height that an image of such a size is stretched to. RequestError for one that
        cannot be.
        """
        columns, lines = self.frame.size(width, height, where)
        count = self.frame.tokens(lines, columns)
        if count > self.num_tokens:
            raise RequestError(where, f"would be {count} tokens; {self.num_tokens} is the most")
        return columns, lines

    def image(self, first: int, pixels: Pixels) -> Image:
        """What stands in a row's tokens from `first` on; of pixels [lines, columns, channels] as
        `size_for` has them.
        """
        lines, columns = pixels.shape[:2]
        wanted = (*reversed(self.size_for(columns, lines, "image")), self.channels)
        if pixels.shape != wanted:
            raise RequestError("image", f"has shape {pixels.shape}; {wanted}")
        frame = self.frame
        hashed = blake2b(b"%d x %d" % (lines, columns), digest_size=16, person=b"ridgeline-pixels")
        hashed.update(pixels.tobytes())
        return Image(
            first,
            frame.tokens(lines, columns),
            frame.patches(pixels, self.mean, self.std),
            hashed.digest(),
            frame.grid(lines, columns),
            frame.whole,
        )


def open_images(model: OpenedModel) -> ImageModel | None:
    """The tower of an open model that has one; None if its architecture or its files have none.
    ModelError names a field, or a tensor that is missing or of another shape.
    """
    checkpoint = model.checkpoint
    where = str(checkpoint.path)
    if checkpoint.kind == "gguf" or "vision_config" not in model.config:
        return None
    _, row = find_architecture(model.config, where, "hf")
    if row.images is None:
        return None
    names = row.images.names
    found = [r for r in names.roots if names.stored("patch.weight", r) in checkpoint.tensors]
    if not found:
        return None
    root = found[0]
    config = Fields(model.config, where)
    graph = row.images.build(config, stored_format(checkpoint, names, root))
    check_graph(graph)
    weights = bind(graph, checkpoint, names, root)
    if row.images.cells is not None:
        cells = row.images.cells(config)
        return _of_any_size(config, graph, weights, cells, checkpoint.path)
    return _squares(config, graph, weights, checkpoint.path)


def _squares(config: Fields, graph: Graph, weights: BoundWeights, path: Path) -> ImageModel:
    vision = config.section("vision_config")
    channels, patch = read_patch(vision)
    (pool,) = (node.op for node in graph.nodes if isinstance(node.op, GridPool))
    half = [0.5] * channels
    pixels = read_preprocessor(path, {"image_mean": half, "image_std": half, "resample": BILINEAR})
    mean, std = _mean_and_std(pixels, channels)
    return ImageModel(
        graph=graph,
        weights=weights,
        frame=Squares(vision.integer("image_size", 1, 1 << 14, 224), patch, pool.num_rows),
        channels=channels,
        num_tokens=pool.num_rows,
        mean=mean,
        std=std,
        token=config.integer("image_token_index", 0, 1 << 30, 262144),
        begin=config.integer("boi_token_index", 0, 1 << 30, 255999),
        end=config.integer("eoi_token_index", 0, 1 << 30, 256000),
        bicubic=_is_bicubic(pixels),
    )


def _of_any_size(
    config: Fields, graph: Graph, weights: BoundWeights, cells: Cells, path: Path
) -> ImageModel:
    pixels = read_preprocessor(
        path, {"image_mean": CLIP_MEAN, "image_std": CLIP_STD, "resample": BICUBIC}
    )
    mean, std = _mean_and_std(pixels, cells.channels)
    for name, value in (
        ("patch_size", cells.patch),
        ("merge_size", cells.merge),
        ("temporal_patch_size", cells.frames),
    ):
        if pixels.integer(name, 1, 1 << 14, value) != value:
            pixels.refuse(name, f"the model's config has {value}")
    size = pixels.section("size")
    num_tokens = graph.max_context // cells.merge**2
    room = num_tokens * (cells.patch * cells.merge) ** 2
    least = size.integer("shortest_edge", 1, MOST_IN_FILES, 56 * 56)
    most = size.integer("longest_edge", 1, MOST_IN_FILES, 28 * 28 * 1280)
    least = pixels.integer("min_pixels", 1, MOST_IN_FILES, least)
    most = pixels.integer("max_pixels", 1, MOST_IN_FILES, most)
    if least > most:
        pixels.refuse("min_pixels", f"is above max_pixels = {most}")
    return ImageModel(
        graph=graph,
        weights=weights,
        frame=Grids(
            cells.patch, cells.merge, cells.frames, cells.window, min(least, room), min(most, room)
        ),
        channels=cells.channels,
        num_tokens=num_tokens,
        mean=mean,
        std=std,
        token=config.integer("image_token_id", 0, 1 << 30, 151655),
        begin=None,
        end=None,
        bicubic=_is_bicubic(pixels),
    )


def _mean_and_std(pixels: Fields, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = (pixels.numbers(f"image_{of}", channels, -10.0, 10.0) for of in ("mean", "std"))
    if not all(std):
        pixels.refuse("image_std", "has a 0")
    return mean, std


def _is_bicubic(pixels: Fields) -> bool:
    return pixels.integer("resample", BILINEAR, BICUBIC) == BICUBIC


def read_preprocessor(path: Path, defaults: Mapping[str, object]) -> Fields:
    """`preprocessor_config.json` beside the weights; `defaults` where it says nothing."""
    folder = path if path.is_dir() else path.parent
    file = folder / PREPROCESSOR
    values: object = {}
    if file.is_file():
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            raise ModelError(f"{file}: is not JSON") from None
    if not isinstance(values, Mapping):
        raise ModelError(f"{file}: is not an object")
    fields = Fields(dict(values), str(file))
    for name, value in defaults.items():
        fields = fields.with_default(name, value)
    return fields
