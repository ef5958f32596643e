"""RWKV-7 for `make_checkpoints`: names and shapes of flash-linear-attention's converter, and the
logits of the authors' own package (PyPI `rwkv`), which reads other names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

F32 = NDArray[np.float32]

# Of a layer: the converter's name, the authors'.
ATTENTION = {
    **{f"attn.x_{x}": f"att.x_{x}" for x in "rwkvag"},
    **{f"attn.{x}": f"att.{x}" for x in ("k_k", "k_a", "r_k")},
    "attn.r_proj.weight": "att.receptance.weight",
    "attn.k_proj.weight": "att.key.weight",
    "attn.v_proj.weight": "att.value.weight",
    "attn.o_proj.weight": "att.output.weight",
    "attn.g_norm.weight": "att.ln_x.weight",
    "attn.g_norm.bias": "att.ln_x.bias",
    **{
        f"attn.{x}_lora.lora.{theirs}": f"att.{x}{ours}"
        for x in "wavg"
        for theirs, ours in (("0.weight", 1), ("2.weight", 2), ("2.bias", 0))
    },
}
OTHERS = {
    "ffn.x_k": "ffn.x_k",
    "ffn.key.weight": "ffn.key.weight",
    "ffn.value.weight": "ffn.value.weight",
    **{
        f"{theirs}.{leaf}": f"{ours}.{leaf}"
        for theirs, ours in (("pre_norm", "ln0"), ("attn_norm", "ln1"), ("ffn_norm", "ln2"))
        for leaf in ("weight", "bias")
    },
}
OUTSIDE = {
    "model.embeddings.weight": "emb.weight",
    "model.norm.weight": "ln_out.weight",
    "model.norm.bias": "ln_out.bias",
    "lm_head.weight": "head.weight",
}


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    wide, vocab, hidden = (config[k] for k in ("hidden_size", "vocab_size", "intermediate_size"))
    heads = wide // config["head_dim"]
    ranks = {x: config[f"{n}_low_rank_dim"] for x, n in zip("wavg", RANKS, strict=True)}
    found: dict[str, tuple[int, ...]] = {
        "model.embeddings.weight": (vocab, wide),
        "lm_head.weight": (vocab, wide),
        "model.norm.weight": (wide,),
        "model.norm.bias": (wide,),
    }
    for i in range(config["num_hidden_layers"]):
        own: dict[str, tuple[int, ...]] = {
            name: (1, 1, wide) for name in ATTENTION if ".x_" in name
        }
        own |= {"attn.k_k": (wide,), "attn.k_a": (wide,), "attn.r_k": (heads, wide // heads)}
        own |= {f"attn.{x}_proj.weight": (wide, wide) for x in "rkvo"}
        for x, rank in ranks.items():
            if x == "v" and i == 0:
                continue
            own[f"attn.{x}_lora.lora.0.weight"] = (rank, wide)
            own[f"attn.{x}_lora.lora.2.weight"] = (wide, rank)
            if x != "g":
                own[f"attn.{x}_lora.lora.2.bias"] = (wide,)
        norms = ("attn.g_norm", "attn_norm", "ffn_norm", *(("pre_norm",) if i == 0 else ()))
        own |= {f"{norm}.{leaf}": (wide,) for norm in norms for leaf in ("weight", "bias")}
        own |= {"ffn.x_k": (wide,), "ffn.key.weight": (hidden, wide)}
        own["ffn.value.weight"] = (wide, hidden)
        found |= {f"model.layers.{i}.{name}": shape for name, shape in own.items()}
    return dict(sorted(found.items()))


RANKS = ("decay", "a", "v", "gate")


def logits(weights: Mapping[str, F32], token_ids: NDArray[np.int32]) -> F32:
    """[tokens, vocab], by the authors' package on one thread in float32."""
    os.environ |= {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}
    from rwkv.model import RWKV

    theirs: dict[str, torch.Tensor] = {}
    for name, values in weights.items():
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if name in OUTSIDE:
            theirs[OUTSIDE[name]] = tensor
            continue
        _, _, number, part = name.split(".", 3)
        called = (ATTENTION | OTHERS)[part]
        # Its low-rank matrices have their inputs first.
        theirs[f"blocks.{number}.{called}"] = tensor.T.contiguous() if ".lora." in part else tensor
    with TemporaryDirectory() as folder:
        torch.save(theirs, Path(folder) / "model.pth")
        model = RWKV(model=str(Path(folder) / "model"), strategy="cpu fp32")
        found, _ = model.forward(token_ids.tolist(), None, full_output=True)
    return np.ascontiguousarray(found.numpy(), np.float32)
