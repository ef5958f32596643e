"""What the metadata of GGUF architectures says whose norms are layer norms: see `gguf_families`."""

from __future__ import annotations

from collections.abc import Mapping

from ridgeline.errors import ModelError
from ridgeline.model.weights.checkpoint import Checkpoint
from ridgeline.model.weights.gguf_families import LAYER_NORM, Family, read_scalar

OLMO_EPS = 1e-5  # a constant of its code


def gpt_neox(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    return {"use_parallel_residual": read_scalar(checkpoint, "gptneox.use_parallel_residual")}


def olmo(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    eps = config["norm_eps"]
    if eps is not None and (not isinstance(eps, float) or abs(eps - OLMO_EPS) > 1e-3 * OLMO_EPS):
        raise ModelError(
            f"{checkpoint.path}: metadata 'olmo.{LAYER_NORM}' = {eps!r}: {OLMO_EPS:g} alone is "
            "supported"
        )
    return {}


def stablelm(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Where an MLP has no norm of its own it stands beside attention, whatever the key says."""
    return {
        "use_qkv_bias": "blk.0.attn_q.bias" in checkpoint.tensors,
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in checkpoint.tensors,
    }


LAYER_NORMED: dict[str, Family] = {
    "olmo": Family({"norm_eps": LAYER_NORM}, more=olmo),
    "stablelm": Family(
        {"layer_norm_eps": LAYER_NORM}, known=("use_parallel_residual",), more=stablelm
    ),
    "nemotron": Family({"norm_eps": LAYER_NORM}),
    "phi2": Family({"layer_norm_eps": LAYER_NORM}, known=("use_parallel_residual",)),
    "gpt2": Family({"layer_norm_epsilon": LAYER_NORM}),
    "gptneox": Family(
        {"layer_norm_eps": LAYER_NORM},
        {"attention_bias": "blk.0.attn_qkv.bias"},
        known=("use_parallel_residual",),
        more=gpt_neox,
    ),
    "starcoder2": Family({"norm_epsilon": LAYER_NORM}, {"use_bias": "blk.0.ffn_down.bias"}),
}
