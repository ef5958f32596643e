"""What an opened model is for: to continue text, to embed or classify it, or to transcribe speech.

Does not know how it is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ridgeline.errors import ModelError, RequestError
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops.embed import Embed
from ridgeline.model.graph.ops.pool import Pool
from ridgeline.model.opened import OpenedModel
from ridgeline.model.passes.embed import without_head
from ridgeline.model.passes.positions import without_positions

Task = Literal["generate", "embed", "classify", "transcribe"]
TASKS: tuple[Task, ...] = ("generate", "embed", "classify", "transcribe")


@dataclass(frozen=True, slots=True)
class Purpose:
    """task, and the graph that does it. whole: a text is computed in one step (encoders). labels:
    of a classifier's classes.
    """

    task: Task
    graph: Graph
    whole: bool
    labels: tuple[str, ...] = ()

    def num_ids(self, vocab_size: int) -> int:
        """Token ids that the model can be given; vocab_size: the width of its output."""
        if self.task == "generate":
            return vocab_size
        tables = [n.weights[0] for n in self.graph.nodes if isinstance(n.op, Embed)]
        return min(table.shape[0] for table in tables)


def purpose_of(opened: OpenedModel, wanted: str | None, positions: str = "kept") -> Purpose:
    """What the model is for, or `wanted` if it can be that: any decoder can embed, by the last
    norm's row of the last token; positions "dropped" leaves rotations out (DroPE). RequestError if
    it cannot.
    """
    if positions not in ("kept", "dropped"):
        raise RequestError("positions", f"{positions!r}; there are: kept, dropped")
    if wanted is not None and wanted not in TASKS:
        raise RequestError("task", f"{wanted!r}; there are: {', '.join(TASKS)}")
    graph = opened.graph if positions == "kept" else without_positions(opened.graph)
    whole = any(isinstance(node.op, Pool) for node in graph.nodes)
    pooling = opened.config.get("pooling_mode")
    natural: Task = "generate"
    if opened.architecture.endswith("ForSequenceClassification"):
        natural = "classify"
    elif whole or pooling is not None:
        natural = "embed"
    if graph.encoder is not None:
        natural = "transcribe"
    possible: tuple[Task, ...] = (natural,)
    if natural in ("generate", "embed") and not whole:
        possible = ("generate", "embed")
    if wanted is not None and wanted not in possible:
        raise RequestError(
            "task", f"{wanted!r} is nothing for {opened.name}: it can {' or '.join(possible)}"
        )
    task = next((each for each in possible if each == wanted), natural)
    if task == "embed" and not whole:
        if pooling not in (None, "last"):
            raise ModelError(
                f"{opened.name}: pooling {pooling!r} of a model that reads from left to right is "
                "not supported; supported: 'last'"
            )
        graph = without_head(graph)
    labels = read_labels(opened.config, graph) if task == "classify" else ()
    return Purpose(task, graph, whole, labels)


def read_labels(config: Mapping[str, object], graph: Graph) -> tuple[str, ...]:
    """A name for each class: `id2label`'s, else LABEL_0, LABEL_1, ..."""
    classes = graph.outputs[0].shape[-1]
    assert isinstance(classes, int)
    named = config.get("id2label")
    names = named if isinstance(named, Mapping) else {}
    return tuple(str(names.get(str(i), f"LABEL_{i}"))[:200] for i in range(classes))
