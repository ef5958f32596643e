"""Executors of a golden checkpoint that sees: its tower alone, and its language model with it."""

from __future__ import annotations

from test_logits import exact

from block_entries import blocks_for
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.backends.reference.image_encoder import ImageEncoder, image_blocks
from ridgeline.model.images import ImageModel
from ridgeline.model.opened import OpenedModel
from ridgeline.model.passes.fuse import fuse
from threads import USUAL


def tower_reference(tower: ImageModel, num_patches: int) -> ReferenceExecutor:
    return ReferenceExecutor(
        exact(tower.graph), tower.weights, num_blocks=image_blocks(num_patches), max_rows=1
    )


def tower_cpu(
    tower: ImageModel, num_patches: int, num_tokens: int, isa: str | None, threads: int = USUAL
) -> CpuExecutor:
    """For images of so many patches and tokens at most."""
    return CpuExecutor(
        fuse(tower.graph),
        tower.weights,
        num_blocks=image_blocks(num_patches),
        max_rows=1,
        max_tokens_per_step=num_patches,
        max_logits_per_step=num_tokens,
        threads=threads,
        isa=isa,
    )


def seeing_reference(model: OpenedModel, encode: ImageEncoder) -> ReferenceExecutor:
    return ReferenceExecutor(
        exact(model.graph),
        model.weights,
        num_blocks=blocks_for(model.graph, 64),
        max_rows=4,
        encode_image=encode,
    )


def seeing_cpu(
    model: OpenedModel, encode: ImageEncoder, isa: str | None, threads: int = USUAL
) -> CpuExecutor:
    return CpuExecutor(
        fuse(model.graph),
        model.weights,
        num_blocks=blocks_for(model.graph, 64),
        max_rows=4,
        max_tokens_per_step=128,
        max_logits_per_step=128,
        threads=threads,
        isa=isa,
        encode_image=encode,
    )
