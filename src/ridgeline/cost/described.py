"""A configuration as the graph that a deployment is priced by: weights in a precision, and what an
engine runs that our own graph leaves out or does otherwise, each difference named.

- Multimodal configurations: the text model. - Sparse attention (GLM-5, DeepSeek V3.2): the graph of
DeepSeek V3 and an `Indexer`. - gpt-oss: no bias of attention's output, which engines add on one
rank. - Norms over all of q and k (MiniMax M2): over each head, which costs as much and can be cut
by heads; engines exchange one sum of each a token instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ridgeline.cost.lines import Indexer
from ridgeline.cost.precisions import KV_STORED, formats_of
from ridgeline.errors import RidgelineError
from ridgeline.model.architectures import build
from ridgeline.model.graph.node import Graph, KvState
from ridgeline.model.graph.ops import Experts, Norm, Rope

SPARSE = ("GlmMoeDsaForCausalLM", "DeepseekV32ForCausalLM")
SPARSE_FIELDS = ("index_topk", "index_n_heads", "index_head_dim", "hidden_size", "q_lora_rank")


@dataclass(frozen=True, slots=True)
class Described:
    """graph: whole, not fused. indexer: of sparse attention. predicts: draft tokens that the
    model's own predictor (MTP) gives a step at most; 0 without one. whole_norms: layers whose norms
    are over all of q and k, for which ranks exchange sums.
    """

    graph: Graph
    indexer: Indexer | None = None
    predicts: int = 0
    whole_norms: int = 0


def describe(
    config: Mapping[str, object], precision: str, *, kv: str = "bf16", where: str = "config"
) -> Described:
    """config: a parsed config.json. precision: a name of `precisions.RECIPES`; kv: of KV_STORED.
    ModelError and RidgelineError say what is not supported.
    """
    if kv not in KV_STORED:
        raise RidgelineError(f"KV format {kv!r} is not known; there are: {', '.join(KV_STORED)}")
    text = config.get("text_config")
    architectures = config.get("architectures")
    if isinstance(text, Mapping) and isinstance(text.get("architectures"), list):
        config = text
        architectures = config.get("architectures")
    fields = {k: v for k, v in config.items() if k != "quantization_config"}
    name = architectures[0] if isinstance(architectures, list) and architectures else ""
    indexer = None
    if name in SPARSE:
        sizes = [fields.get(field) for field in SPARSE_FIELDS]
        numbers = [size for size in sizes if isinstance(size, int)]
        if len(numbers) < len(sizes):
            raise RidgelineError(f"{where}: sparse attention needs {', '.join(SPARSE_FIELDS)}")
        indexer = Indexer(*numbers)
        fields = {k: v for k, v in fields.items() if not k.startswith("index") and k != "head_dim"}
        fields |= {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3"}
    if name == "GptOssForCausalLM":
        fields["attention_bias"] = False
    graph = build(fields, formats_of(precision, True), where=where)
    if not any(isinstance(node.op, Experts) for node in graph.nodes):
        graph = build(fields, formats_of(precision, False), where=where)
    predicts = fields.get("num_nextn_predict_layers")
    graph, whole_norms = _with_local_norms(_with_kv(graph, kv))
    return Described(graph, indexer, predicts if isinstance(predicts, int) else 0, whole_norms)


def _with_kv(graph: Graph, kv: str) -> Graph:
    stored = KV_STORED[kv]
    return replace(
        graph,
        nodes=tuple(
            replace(
                node,
                state=replace(node.state, format=stored),
                entries=node.entries and replace(node.entries, format=stored),
            )
            if isinstance(node.state, KvState)
            else node
            for node in graph.nodes
        ),
    )


def _with_local_norms(graph: Graph) -> tuple[Graph, int]:
    """Norms of all of q and of all of k become norms of their heads; in how many layers."""
    nodes = []
    layers = 0
    for node in graph.nodes:
        if isinstance(node.op, Norm) and node.name.endswith((".attn.q_norm", ".attn.k_norm")):
            width = node.inputs[0].shape[-1]
            if node.op.num_groups == 1 and node.weights and isinstance(width, int):
                heads = _heads_of(graph, node.outputs[0].id)
                if heads and width % heads == 0:
                    weight = replace(node.weights[0], shape=(width // heads,), axes=(None,))
                    node = replace(node, op=replace(node.op, num_groups=heads), weights=(weight,))
                    layers += node.name.endswith("q_norm")
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes)), layers


def _heads_of(graph: Graph, value_id: int) -> int:
    """Heads that the reader of a value turns, which rope knows."""
    for node in graph.nodes:
        if isinstance(node.op, Rope) and any(v.id == value_id for v in node.inputs):
            return node.op.num_heads
    return 0
