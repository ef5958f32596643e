"""What stands at the end of a model that does not continue text: pooling, and classes.

Reads fields and builds nodes; does not know any architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Node, Value, Weight
from ridgeline.model.graph.ops import Linear, Pool
from ridgeline.model.graph.ops.pool import Pooling
from ridgeline.model.passes.embed import without_head

BuildGraph = Callable[[Fields, FormatOf, Stored, int | None], Graph]

# What `pooling_mode` may say; it comes from the files beside a configuration, or from a user.
POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "first"}
MAX_CLASSES = 1 << 16


def pooled(b: Builder, x: Value, config: Fields, kind: Pooling | None = None) -> Value:
    """One row for each text; kind None: as `pooling_mode` says, the mean if it says nothing."""
    if kind is None:
        mode = config.text("pooling_mode", "mean")
        if mode not in POOLINGS:
            config.refuse("pooling_mode", f"an encoder pools by one of {', '.join(POOLINGS)}")
        kind = POOLINGS[mode]
    return b.one("pool", Pool(kind), x)


def read_num_classes(config: Fields) -> int:
    """Rows of the classes' matrix: as many as have names, else `num_labels`, else 2."""
    names = config.values.get("id2label")
    if names is None:
        return config.integer("num_labels", 1, MAX_CLASSES, 2)
    if not isinstance(names, Mapping) or not 1 <= len(names) <= MAX_CLASSES:
        config.refuse("id2label", f"an object with 1 to {MAX_CLASSES} names is needed")
    return len(names)


def classifier(build: BuildGraph) -> BuildGraph:
    """A decoder whose output matrix is one of classes, for the last token."""

    def built(
        config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
    ) -> Graph:
        classes = read_num_classes(config)
        # There is no matrix of tokens beside that of classes.
        tied = replace(config, values={**config.values, "tie_word_embeddings": True})
        graph = without_head(build(tied, format_of, stored, context_length))
        (rows,) = graph.outputs
        width = rows.shape[-1]
        assert isinstance(width, int)
        last = max(value.id for node in graph.nodes for value in node.outputs)
        table = Weight("head.weight", (classes, width), format_of("head.weight"), (None, None))
        logits = Value(last + 1, (rows.shape[0], classes))
        head = Node("head", Linear(), (rows,), (logits,), (table,))
        return replace(graph, nodes=(*graph.nodes, head), outputs=(logits,))

    return built
