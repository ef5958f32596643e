"""A tower that makes rows of images, in NumPy."""

from __future__ import annotations

from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.backends.reference.image_encoder import ImageEncoder, Tower, image_blocks
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.images import ImageModel
from ridgeline.model.passes.kv_format import with_kv_format


def tower(images: ImageModel) -> Tower:
    graph = with_kv_format(images.graph, KV_FORMATS["f32"])

    def load() -> ImageEncoder:
        blocks = image_blocks(images.num_patches)
        executor = ReferenceExecutor(graph, images.weights, num_blocks=blocks, max_rows=1)
        return ImageEncoder(executor, images.num_patches, images.num_tokens, images.frame.places)

    return Tower(sum(4 * weight.num_elements for weight in graph.weights), load)
