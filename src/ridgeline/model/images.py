"""The part of a model that sees: an image becomes patches, patches become rows in place of tokens.

Does not know how graphs are run, nor where images come from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ridgeline.errors import ModelError, RequestError
from ridgeline.model.architectures import find_architecture
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.siglip import read_patch
from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import GridPool
from ridgeline.model.opened import OpenedModel
from ridgeline.model.weights.bound import BoundWeights, bind, stored_format
from ridgeline.step import Image

PREPROCESSOR = "preprocessor_config.json"
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers, which files have
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ImageModel:
    """What makes rows of images, and how an image is brought to it.

    graph, weights: patches -> rows. size: pixels along a side of the square that every image is
    made; patch, channels: of a patch. num_tokens: that stand for an image. mean, std: of pixels
    from 0 to 1, by channel; how they come to the model. token: the id that stands for an image in a
    prompt; begin, end: ids around it. bicubic: how an image is stretched; else bilinear.
    """

    graph: Graph
    weights: BoundWeights
    size: int
    patch: int
    channels: int
    num_tokens: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    token: int
    begin: int
    end: int
    bicubic: bool

    @property
    def num_patches(self) -> int:
        return self.graph.max_context

    def patches(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """pixels [size, size, channels] -> [patches, channels * patch * patch], line by line."""
        if pixels.shape != (self.size, self.size, self.channels):
            raise RequestError(
                "image", f"has shape {pixels.shape}; {(self.size, self.size, self.channels)}"
            )
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        scaled = (pixels.astype(np.float32) * np.float32(1 / 255) - mean) / std
        side = self.size // self.patch
        whole = scaled[: side * self.patch, : side * self.patch]
        parts = whole.reshape(side, self.patch, side, self.patch, self.channels)
        lines = parts.transpose(0, 2, 4, 1, 3)
        return np.ascontiguousarray(lines).reshape(side * side, -1)

    def image(self, first: int, pixels: Pixels) -> Image:
        """What stands in a row's tokens from `first` on."""
        name = blake2b(pixels.tobytes(), digest_size=16, person=b"ridgeline-pixels").digest()
        return Image(first, self.num_tokens, self.patches(pixels), name)


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
    vision = config.section("vision_config")
    channels, patch = read_patch(vision)
    (pool,) = (node.op for node in graph.nodes if isinstance(node.op, GridPool))
    pixels = read_preprocessor(checkpoint.path, channels)
    mean, std = (pixels.numbers(f"image_{of}", channels, -10.0, 10.0) for of in ("mean", "std"))
    if not all(std):
        pixels.refuse("image_std", "has a 0")
    token = config.integer("image_token_index", 0, 1 << 30, 262144)
    return ImageModel(
        graph=graph,
        weights=bind(graph, checkpoint, names, root),
        size=vision.integer("image_size", 1, 1 << 14, 224),
        patch=patch,
        channels=channels,
        num_tokens=pool.num_rows,
        mean=mean,
        std=std,
        token=token,
        begin=config.integer("boi_token_index", 0, 1 << 30, 255999),
        end=config.integer("eoi_token_index", 0, 1 << 30, 256000),
        bicubic=pixels.integer("resample", BILINEAR, BICUBIC, BILINEAR) == BICUBIC,
    )


def read_preprocessor(path: Path, channels: int) -> Fields:
    """`preprocessor_config.json` beside the weights; SigLIP's where it says nothing."""
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
    half = [0.5] * channels
    fields = Fields(dict(values), str(file))
    return fields.with_default("image_mean", half).with_default("image_std", half)
