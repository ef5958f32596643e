"""DeepSeek V4's modules of multi-token prediction (`model/predictors.py`): a token's residual
streams, side by side, and the embedding of the next, which is added to each; one layer; a head of
streams of its own.

As MTPBlock of the published inference/model.py has it. Its layer has a window alone, if
`compress_ratios` does not say otherwise behind those of the model's layers.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.model.architectures.blocks import add, embed, linear, logits_of, norm
from ridgeline.model.architectures.deepseek_v4 import WINDOW, Parts, last_of, one_layer
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Join, Linear, Split


def assemble_module(format_of: FormatOf, parts: Parts, *, number: int, from_zero: bool) -> Graph:
    """number: of the module, whose layer is called so (from_zero) or by a number behind those of
    the model's layers. Outputs: logits, and the streams that the next module goes on from.
    """
    b = Builder("deepseek_v4_predictor", format_of)
    count, rms = parts.streams.count, parts.shape.rms
    x, table = embed(b, parts.vocab, parts.width)
    given = b.hidden(count * parts.width)
    layer = f"layers.{number if from_zero else parts.layers + number}"
    x = linear(b, f"{layer}.join", norm(b, f"{layer}.embed_norm", x, rms), parts.width)
    given = norm(b, f"{layer}.hidden_norm", given, replace(rms, num_groups=count))
    each = b.add(f"{layer}.streams", Split((parts.width,) * count), given)
    matrix = b.weight(f"{layer}.join_streams.weight", parts.width, parts.width)
    flows = tuple(
        add(
            b,
            f"{layer}.joined.{k}",
            x,
            b.one(f"{layer}.join_streams.{k}", Linear(), flow, weights=(matrix,)),
        )
        for k, flow in enumerate(each)
    )
    behind = parts.kinds[len(parts.mixtures) :]
    kind = behind[number] if number < len(behind) else WINDOW
    flows = one_layer(b, layer, flows, parts, kind, parts.mixtures[-1])
    x = last_of(b, f"{layer}.head", flows, parts.streams)
    x = norm(b, f"{layer}.last_norm", x, rms)
    logits = logits_of(b, x, parts.vocab, tied=table if parts.tied else None)
    joined = flows[0]
    for k, flow in enumerate(flows[1:], 1):
        joined = b.one(f"{layer}.given.{k}", Join(), joined, flow)
    return b.finish(logits, parts.context, joined)
