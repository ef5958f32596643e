"""What configurations of hybrids share: which layer is of which kind, and the sizes of their
recurrences. Reads fields and builds nothing but the choice of a layer's branch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from ridgeline.errors import ModelError
from ridgeline.model.architectures.fields import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_POSITIONS,
    MAX_WIDTH,
    Fields,
    quote,
)
from ridgeline.model.architectures.recurrent import SsdSizes
from ridgeline.model.architectures.stack import Branch
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import Value
from ridgeline.model.graph.ops.causal_conv import MAX_TAPS

RECURRENT, ATTENDING = "linear_attention", "full_attention"

# The older spellings of a layer's kind.
KINDS = {
    "mamba": RECURRENT,
    "attention": ATTENDING,
    RECURRENT: RECURRENT,
    ATTENDING: ATTENDING,
}


def by_kind(kinds: Sequence[str], branches: Mapping[str, Branch]) -> Branch:
    """Each layer's branch, by its kind."""

    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        return branches[kinds[i]](b, layer, i, x)

    return branch


def read_kinds(
    config: Fields, name: str, layers: int, kinds: Mapping[str, str] = KINDS
) -> tuple[str, ...] | None:
    """The list under `name`, one of `kinds` a layer; None if it is not there."""
    if not config.has(name):
        return None
    return tuple(kinds[text] for text in config.texts(name, layers, tuple(kinds)))


def read_indices(config: Fields, name: str, layers: int) -> tuple[int, ...]:
    """The list of layers under `name`; empty if it is not there."""
    value = config.values.get(name)
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) > layers:
        config.refuse(name, f"a list of at most {layers} layers is needed")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < layers:
            config.refuse(name, f"layers from 0 to {layers - 1}, and one is {quote(item)}")
    return tuple(cast(Sequence[int], value))


def read_hybrid_ssd(config: Fields, width: int, inner: int | None = None) -> SsdSizes:
    """Mamba 2's sizes under the names that hybrids give them (mamba_n_heads, mamba_d_head, ...).

    inner: channels of the mixer; mamba_expand x width if None.
    """
    heads = config.integer("mamba_n_heads", 1, MAX_HEADS, 128)
    if inner is None:
        inner = config.integer("mamba_expand", 1, 64, 2) * width
    if inner % heads:
        config.refuse("mamba_n_heads", f"does not divide the mixer's {inner} channels")
    head_dim = inner // heads
    if config.has("mamba_d_head") and config.values["mamba_d_head"] != "auto":
        head_dim = config.integer("mamba_d_head", 1, MAX_HEAD_DIM)
    if heads * head_dim != inner:
        config.refuse("mamba_d_head", f"x mamba_n_heads = {heads} is not {inner}")
    groups = config.integer("mamba_n_groups", 1, MAX_HEADS, 1)
    if heads % groups:
        config.refuse("mamba_n_groups", f"does not divide mamba_n_heads = {heads}")
    return SsdSizes(
        heads=heads,
        head_dim=head_dim,
        groups=groups,
        state=config.integer("mamba_d_state", 1, MAX_HEAD_DIM, 256),
        taps=config.integer("mamba_d_conv", 2, MAX_TAPS, 4),
    )


def context_of(config: Fields, positions: int, context_length: int | None) -> int:
    """Tokens to build for, of a model without rotation: as many as are asked for."""
    if context_length is None:
        return positions
    if not 1 <= context_length <= MAX_POSITIONS:
        raise ModelError(
            f"{config.where}: a context of {context_length} tokens is not possible: 1 to "
            f"{MAX_POSITIONS} are"
        )
    return context_length


def read_width(config: Fields, name: str, default: int) -> int:
    return config.integer(name, 1, MAX_WIDTH, default)
