"""The operators, one file a family; backends and docs are held against `OPERATORS`."""

from ridgeline.model.graph.ops.activation import Activate, GatedActivation, Xielu
from ridgeline.model.graph.ops.attention import Attention, Blocks, KvWrite
from ridgeline.model.graph.ops.block_linear import BlockLinear
from ridgeline.model.graph.ops.causal_conv import CausalConv
from ridgeline.model.graph.ops.collectives import AllGather, AllReduce, Combine, Dispatch
from ridgeline.model.graph.ops.compress import Compress
from ridgeline.model.graph.ops.conv1d import Conv1d
from ridgeline.model.graph.ops.cross_attention import CrossAttention, CrossWrite
from ridgeline.model.graph.ops.decay_attention import DecayAttention
from ridgeline.model.graph.ops.delta_rule import DeltaRule
from ridgeline.model.graph.ops.elementwise import (
    Add,
    Join,
    Scale,
    Softcap,
    Split,
    SplitGroups,
    Weigh,
)
from ridgeline.model.graph.ops.embed import Embed, PlaceImages, PositionEmbed, TypeEmbed
from ridgeline.model.graph.ops.entries import EntryAttention, EntryWrite, SelectEntries
from ridgeline.model.graph.ops.experts import Experts, ZeroExperts
from ridgeline.model.graph.ops.gated_linear import GatedLinear
from ridgeline.model.graph.ops.latent import LatentAttention
from ridgeline.model.graph.ops.linear import Linear
from ridgeline.model.graph.ops.norm import AddNorm, Norm
from ridgeline.model.graph.ops.operator import Operator
from ridgeline.model.graph.ops.pool import GridPool, JoinTokens, Pool
from ridgeline.model.graph.ops.rg_lru import RgLru
from ridgeline.model.graph.ops.rope import Rope, RopeKvWrite, Rotation
from ridgeline.model.graph.ops.route import Route
from ridgeline.model.graph.ops.rows import SelectRows
from ridgeline.model.graph.ops.scale_by import ScaleBy, ScaleByPosition
from ridgeline.model.graph.ops.select_blocks import SelectBlocks
from ridgeline.model.graph.ops.select_tokens import SelectTokens
from ridgeline.model.graph.ops.state_space import SelectiveScan, SsdScan
from ridgeline.model.graph.ops.stream_weights import StreamWeights
from ridgeline.model.graph.ops.streams import KeepLargest, MatchSize, Mix
from ridgeline.model.graph.ops.token_shift import TokenShift
from ridgeline.model.graph.ops.wkv7 import Wkv7

OPERATORS: dict[str, type[Operator]] = {
    "embed": Embed,
    "position_embed": PositionEmbed,
    "type_embed": TypeEmbed,
    "conv1d": Conv1d,
    "place_images": PlaceImages,
    "linear": Linear,
    "norm": Norm,
    "add_norm": AddNorm,
    "rope": Rope,
    "kv_write": KvWrite,
    "rope_kv_write": RopeKvWrite,
    "attention": Attention,
    "latent_attention": LatentAttention,
    "select_tokens": SelectTokens,
    "select_blocks": SelectBlocks,
    "compress": Compress,
    "entry_write": EntryWrite,
    "select_entries": SelectEntries,
    "entry_attention": EntryAttention,
    "cross_write": CrossWrite,
    "cross_attention": CrossAttention,
    "gated_activation": GatedActivation,
    "gated_linear": GatedLinear,
    "activate": Activate,
    "xielu": Xielu,
    "route": Route,
    "experts": Experts,
    "zero_experts": ZeroExperts,
    "add": Add,
    "scale": Scale,
    "scale_by": ScaleBy,
    "scale_by_position": ScaleByPosition,
    "softcap": Softcap,
    "weigh": Weigh,
    "split": Split,
    "split_groups": SplitGroups,
    "join": Join,
    "causal_conv": CausalConv,
    "selective_scan": SelectiveScan,
    "ssd_scan": SsdScan,
    "decay_attention": DecayAttention,
    "delta_rule": DeltaRule,
    "rg_lru": RgLru,
    "token_shift": TokenShift,
    "wkv7": Wkv7,
    "block_linear": BlockLinear,
    "stream_weights": StreamWeights,
    "mix": Mix,
    "match_size": MatchSize,
    "keep_largest": KeepLargest,
    "select_rows": SelectRows,
    "pool": Pool,
    "grid_pool": GridPool,
    "join_tokens": JoinTokens,
    "all_reduce": AllReduce,
    "all_gather": AllGather,
    "dispatch": Dispatch,
    "combine": Combine,
}

__all__ = [
    "OPERATORS",
    "Activate",
    "Add",
    "AddNorm",
    "AllGather",
    "AllReduce",
    "Attention",
    "BlockLinear",
    "Blocks",
    "CausalConv",
    "Combine",
    "Compress",
    "Conv1d",
    "CrossAttention",
    "CrossWrite",
    "DecayAttention",
    "DeltaRule",
    "Dispatch",
    "Embed",
    "EntryAttention",
    "EntryWrite",
    "Experts",
    "GatedActivation",
    "GatedLinear",
    "GridPool",
    "Join",
    "JoinTokens",
    "KeepLargest",
    "KvWrite",
    "LatentAttention",
    "Linear",
    "MatchSize",
    "Mix",
    "Norm",
    "Operator",
    "PlaceImages",
    "Pool",
    "PositionEmbed",
    "RgLru",
    "Rope",
    "RopeKvWrite",
    "Rotation",
    "Route",
    "Scale",
    "ScaleBy",
    "ScaleByPosition",
    "SelectBlocks",
    "SelectEntries",
    "SelectRows",
    "SelectTokens",
    "SelectiveScan",
    "Softcap",
    "Split",
    "SplitGroups",
    "SsdScan",
    "StreamWeights",
    "TokenShift",
    "TypeEmbed",
    "Weigh",
    "Wkv7",
    "Xielu",
    "ZeroExperts",
]
