"""The operator table: what every operator means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ridgeline.backends.reference.activation import activate, gated_activation, gated_linear, xielu
from ridgeline.backends.reference.attention import attention, kv_write
from ridgeline.backends.reference.block_linear import block_linear
from ridgeline.backends.reference.call import Array, Call
from ridgeline.backends.reference.causal_conv import causal_conv
from ridgeline.backends.reference.collectives import all_gather, all_reduce, combine, dispatch
from ridgeline.backends.reference.compress import compress
from ridgeline.backends.reference.conv1d import conv1d
from ridgeline.backends.reference.cross_attention import cross_attention, cross_write
from ridgeline.backends.reference.decay_attention import decay_attention
from ridgeline.backends.reference.delta_rule import delta_rule
from ridgeline.backends.reference.elementwise import (
    add,
    join,
    scale,
    scale_by,
    scale_by_position,
    softcap,
    split,
    split_groups,
    weigh,
)
from ridgeline.backends.reference.embed import embed, place_images, position_embed, type_embed
from ridgeline.backends.reference.entries import entry_attention, entry_write, select_entries
from ridgeline.backends.reference.experts import experts, route, zero_experts
from ridgeline.backends.reference.latent import latent_attention
from ridgeline.backends.reference.linear import linear
from ridgeline.backends.reference.norm import add_norm, norm
from ridgeline.backends.reference.pool import grid_pool, join_tokens, pool
from ridgeline.backends.reference.rg_lru import rg_lru
from ridgeline.backends.reference.rope import rope, rope_kv_write
from ridgeline.backends.reference.rows import select_rows
from ridgeline.backends.reference.select_blocks import select_blocks
from ridgeline.backends.reference.select_tokens import select_tokens
from ridgeline.backends.reference.state_space import selective_scan, ssd_scan
from ridgeline.backends.reference.stream_weights import stream_weights
from ridgeline.backends.reference.streams import keep_largest, match_size, mix
from ridgeline.backends.reference.token_shift import token_shift
from ridgeline.backends.reference.wkv7 import wkv7
from ridgeline.model.graph import ops
from ridgeline.model.graph.ops.operator import Operator

# Each function takes its own operator class, hence Any.
REFERENCE: dict[type[Operator], Callable[[Any, Call], tuple[Array, ...]]] = {
    ops.Embed: embed,
    ops.PositionEmbed: position_embed,
    ops.TypeEmbed: type_embed,
    ops.Conv1d: conv1d,
    ops.PlaceImages: place_images,
    ops.Linear: linear,
    ops.Norm: norm,
    ops.AddNorm: add_norm,
    ops.Rope: rope,
    ops.KvWrite: kv_write,
    ops.RopeKvWrite: rope_kv_write,
    ops.Attention: attention,
    ops.LatentAttention: latent_attention,
    ops.SelectTokens: select_tokens,
    ops.SelectBlocks: select_blocks,
    ops.Compress: compress,
    ops.EntryWrite: entry_write,
    ops.SelectEntries: select_entries,
    ops.EntryAttention: entry_attention,
    ops.CrossWrite: cross_write,
    ops.CrossAttention: cross_attention,
    ops.GatedActivation: gated_activation,
    ops.GatedLinear: gated_linear,
    ops.Activate: activate,
    ops.Xielu: xielu,
    ops.Route: route,
    ops.Experts: experts,
    ops.ZeroExperts: zero_experts,
    ops.Add: add,
    ops.Scale: scale,
    ops.ScaleBy: scale_by,
    ops.ScaleByPosition: scale_by_position,
    ops.Softcap: softcap,
    ops.Weigh: weigh,
    ops.Split: split,
    ops.SplitGroups: split_groups,
    ops.Join: join,
    ops.CausalConv: causal_conv,
    ops.SelectiveScan: selective_scan,
    ops.SsdScan: ssd_scan,
    ops.DecayAttention: decay_attention,
    ops.DeltaRule: delta_rule,
    ops.RgLru: rg_lru,
    ops.TokenShift: token_shift,
    ops.Wkv7: wkv7,
    ops.BlockLinear: block_linear,
    ops.StreamWeights: stream_weights,
    ops.Mix: mix,
    ops.MatchSize: match_size,
    ops.KeepLargest: keep_largest,
    ops.SelectRows: select_rows,
    ops.Pool: pool,
    ops.GridPool: grid_pool,
    ops.JoinTokens: join_tokens,
    ops.AllReduce: all_reduce,
    ops.AllGather: all_gather,
    ops.Dispatch: dispatch,
    ops.Combine: combine,
}

# These are called once for all ranks, with the inputs of each, and each gets the outputs; of those
# that part, its own one.
COLLECTIVES: frozenset[type[Operator]] = frozenset(
    {ops.AllReduce, ops.AllGather, ops.Dispatch, ops.Combine}
)
PARTING: frozenset[type[Operator]] = frozenset({ops.Combine})
