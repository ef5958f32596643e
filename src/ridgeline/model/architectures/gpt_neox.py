"""GPT-NeoX (Black et al. 2022) and Pythia: two branches beside each other, each with a norm of its
own, biases everywhere, a quarter of each head turns.
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

NEOX = Defaults(vocab=50432, heads=64, positions=2048, eps=1e-5, eps_name="layer_norm_eps")
DEFAULT_TURNED = 0.25
OLDER = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}


def build_gpt_neox(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    config = config.renamed(OLDER)
    sizes = read_sizes(config, NEOX)
    config.require_neutral(neutral() | {"num_key_value_heads": (sizes.heads.query,)})
    rope = read_rope(
        config, sizes.heads.dim, sizes.positions, partial=True, default_partial=DEFAULT_TURNED
    )
    context = choose_context(rope, context_length, config.where)
    bias = config.boolean("attention_bias", True)
    beside = config.boolean("use_parallel_residual", True)
    return build_decoder(
        "gpt_neox",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("layer", sizes.eps), "beside" if beside else "pre", bias=True),
        attend=attends(
            sizes.heads,
            (rotation(rope, context),) * sizes.layers,
            (None,) * sizes.layers,
            qkv_bias=bias,
            output_bias=bias,
            by_head=stored.qkv_by_head,
        ),
        feed=feeds(
            sizes.mlp, read_activation(config, "hidden_act", "gelu"), gated=False, bias=True
        ),
        tied=config.boolean("tie_word_embeddings", False),
    )
