"""A tower that makes rows of images, on the CPU's kernels."""

from __future__ import annotations

from ridgeline.backends.cpu.executor import CpuExecutor, choose_isa
from ridgeline.backends.cpu.program import ProgramLimits, predict_memory
from ridgeline.backends.reference.image_encoder import ImageEncoder, Tower, image_blocks
from ridgeline.config import Settings
from ridgeline.model.images import ImageModel
from ridgeline.model.passes.fuse import fuse


def tower(images: ImageModel, settings: Settings, source: object) -> Tower:
    """source: what identifies the files that the weights come from."""
    graph = fuse(images.graph)
    limits = ProgramLimits(
        isa=choose_isa(settings.isa),
        threads=settings.threads,
        num_blocks=image_blocks(images.num_patches),
        max_rows=1,
        max_tokens=images.num_patches,
        max_sampled=images.num_tokens,
    )

    def load() -> ImageEncoder:
        executor = CpuExecutor(
            graph,
            images.weights,
            num_blocks=limits.num_blocks,
            max_rows=limits.max_rows,
            max_tokens_per_step=limits.max_tokens,
            max_logits_per_step=limits.max_sampled,
            threads=settings.threads,
            isa=settings.isa,
            packed_folder=settings.cache_dir / "packed" if settings.keep_packed else None,
            source=source,
        )
        return ImageEncoder(executor, images.num_patches, images.num_tokens, images.frame.places)

    return Tower(sum(predict_memory(graph, limits).values()), load)
