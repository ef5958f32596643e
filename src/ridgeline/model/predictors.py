"""Multi-token prediction: modules of a checkpoint that draft tokens further ahead, as graphs.

A module (DeepSeek-AI 2024, 2.2) sees of each token the hidden state that the model, or the module
before it, gave there, and the token that comes next; it gives logits of the one after that. Module
k (from 0) at position i: the hidden state of position i and the embedding of token i + 1 + k ->
logits of token i + 2 + k. Embedding and output matrix are the model's. So an executor of a module
is opened with a row's tokens from the (1 + k)th on, and runs the plans that the model ran, with the
same blocks; what it says changes no answer, only which drafts there are to verify.

Does not know who drafts, nor how drafts are verified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ridgeline.model.architectures import Architecture, find_architecture
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.node import Graph
from ridgeline.model.opened import (
    PREDICTOR_COUNTS,
    OpenedModel,
    read_config,
    read_dtype,
)
from ridgeline.model.quantized import quantized_as, read_quantization, without_quantization
from ridgeline.model.weights.bound import BoundWeights, bind, stored_format
from ridgeline.model.weights.names import parse

MAX_PREDICTORS = 16


def describe_predictors(
    config: Path | Mapping[str, object],
    *,
    context_length: int | None = None,
    where: str = "config",
) -> tuple[Graph, ...]:
    """The modules that a bare config.json says there are, as `opened.describe` has the model; none
    where the architecture's are not built.
    """
    if isinstance(config, Path):
        config, where = read_config(config)
    _, row = find_architecture(config, where, "hf")
    stored, method = read_dtype(config, where), read_quantization(config, where)
    plain = without_quantization(config, where)
    build = _builder(row, plain, where, lambda name: quantized_as(method, name, stored))
    count = 0 if row.predictors is None else _count(plain, where)
    return tuple(build(k, context_length) for k in range(count))


def open_predictors(model: OpenedModel) -> tuple[tuple[Graph, BoundWeights], ...]:
    """The modules that an open model's files have, in the order in which they draft; none if there
    are none. ModelError names a tensor that is missing or of another shape.
    """
    checkpoint = model.checkpoint
    where = str(checkpoint.path)
    _, row = find_architecture(model.config, where, "gguf" if checkpoint.kind == "gguf" else "hf")
    if row.predictors is None:
        return ()
    names, root = row.predictors.names, row.names.find_root(checkpoint.tensors)
    build = _builder(row, model.config, where, stored_format(checkpoint, names, root))
    numbers = [int(number) for _, number, _ in map(parse, _weights(model.graph)) if number]
    first = 0 if row.predictors.from_zero else 1 + max(numbers)
    joins = [
        names.stored(f"layers.{n}.join.weight", root) for n in range(first, first + MAX_PREDICTORS)
    ]
    found = []
    for k, join in enumerate(dict.fromkeys(joins)):
        if join not in checkpoint.tensors:
            break
        graph = build(k, model.graph.max_context)
        found.append((graph, bind(graph, checkpoint, names, root)))
    return tuple(found)


def _builder(
    row: Architecture, config: Mapping[str, object], where: str, format_of: FormatOf
) -> Callable[[int, int | None], Graph]:
    def build(k: int, context_length: int | None) -> Graph:
        modules = row.predictors
        assert modules is not None
        assemble = partial(modules.assemble, number=k, from_zero=modules.from_zero)
        fields = Fields(config, where)
        graph = modules.build(fields, format_of, row.stored, context_length, assemble)
        check_graph(graph)
        return graph

    return build


def _count(config: Mapping[str, object], where: str) -> int:
    text = config.get("text_config")
    sections = (config, text) if isinstance(text, Mapping) else (config,)
    return max(
        Fields(section, where).integer(name, 0, MAX_PREDICTORS, 0)
        for section in sections
        for name in PREDICTOR_COUNTS
    )


def _weights(graph: Graph) -> list[str]:
    return [weight.name for weight in graph.weights]
