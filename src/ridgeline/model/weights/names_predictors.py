"""Names of weights in modules of multi-token prediction: see `names`.

Embedding and output matrix are the model's; copies of them that a module's tensors may have are not
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ridgeline.model.weights import names_moe, names_recurrent
from ridgeline.model.weights.names import Columns, Row, Stack

# Of what stands around a module's layer, as DeepSeek calls it.
AROUND: dict[str, str] = {
    "layers.{i}.embed_norm": "{body}layers.{i}.enorm",
    "layers.{i}.hidden_norm": "{body}layers.{i}.hnorm",
    "layers.{i}.join": "{body}layers.{i}.eh_proj",
    "layers.{i}.last_norm": "{body}layers.{i}.shared_head.norm",
}


def moved(rows: Mapping[str, Row], to: str) -> dict[str, Row]:
    """The same rows, where a module's layers stand at `to`."""

    def place(stored: str) -> str:
        return stored.replace("{body}layers", to)

    def placed(row: Row) -> Row:
        if isinstance(row, Stack):
            return replace(row, weight=place(row.weight), bias=place(row.bias))
        if isinstance(row, Columns):
            return replace(row, module=place(row.module))
        assert isinstance(row, str)
        return place(row)

    return {module: placed(row) for module, row in rows.items()}


HF_DEEPSEEK: dict[str, Row] = {**names_moe.HF_DEEPSEEK, **AROUND}
HF_DEEPSEEK_V32: dict[str, Row] = {**names_moe.HF_DEEPSEEK_V32, **AROUND}
HF_GLM4_MOE: dict[str, Row] = {**names_moe.HF_DEEPSEEK_MOE, **AROUND}
HF_QWEN3_NEXT: dict[str, Row] = {
    **moved(names_recurrent.HF_QWEN3_5, "mtp.layers"),
    "layers.{i}.embed_norm": "mtp.pre_fc_norm_embedding",
    "layers.{i}.hidden_norm": "mtp.pre_fc_norm_hidden",
    "layers.{i}.join": "mtp.fc",
    "layers.{i}.last_norm": "mtp.norm",
}
# A head of streams of its own; the streams are joined one by one.
HF_DEEPSEEK_V4: dict[str, Row] = {
    **moved(names_moe.HF_DEEPSEEK_V4, "mtp"),
    "layers.{i}.embed_norm": "mtp.{i}.enorm",
    "layers.{i}.hidden_norm": "mtp.{i}.hnorm",
    "layers.{i}.join": "mtp.{i}.e_proj",
    "layers.{i}.join_streams": "mtp.{i}.h_proj",
    "layers.{i}.last_norm": "mtp.{i}.norm",
    **{
        f"layers.{{i}}.head_hc.{part}.weight": f"mtp.{{i}}.hc_head_{part}"
        for part in ("fn", "base", "scale")
    },
}
