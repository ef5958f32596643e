"""transformers' layers put together to DeepSeek V4's modules of multi-token prediction, which it
does not have: as MTPBlock of the published inference/model.py.
"""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM

F32 = NDArray[np.float32]
AROUND = ("enorm", "hnorm", "norm", "e_proj", "h_proj")


def module_of(folder: Path, config: Any, number: int) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model of one layer, which is the module's, with its head of streams and its last norm; and
    the weights that stand before the layer.
    """
    stored = load_file(folder / "model.safetensors")
    prefix = f"mtp.{number}."
    own = {k.removeprefix(prefix): w for k, w in stored.items() if k.startswith(prefix)}
    tensors = {name: stored[name] for name in ("embed.weight", "head.weight")}
    before = {name: own.pop(f"{name}.weight").float() for name in AROUND[:2] + AROUND[3:]}
    tensors["norm.weight"] = own.pop("norm.weight")
    for name in [name for name in own if name.startswith("hc_head_")]:
        tensors[name] = own.pop(name)
    tensors |= {f"layers.0.{name}": w for name, w in own.items()}
    config = copy.deepcopy(config)
    config.num_hidden_layers = 1
    config.layer_types, config.mlp_layer_types = ["sliding_attention"], ["moe"]
    with TemporaryDirectory() as only:
        save_file(tensors, Path(only) / "model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(only)
        model, info = AutoModelForCausalLM.from_pretrained(
            only, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    wrong = {kind: names for kind, names in info.items() if names}
    if wrong:
        raise ValueError(f"transformers did not take every weight of a module: {wrong}")
    return model.eval(), before


def rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def streams_of(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's logits, and what its last layer gives."""
    seen: list[torch.Tensor] = []
    hook = model.model.layers[-1].register_forward_hook(lambda _m, _i, out: seen.append(out))
    logits = model(ids).logits[0]
    hook.remove()
    return logits, seen[0]


def replaced(model: Any, streams: torch.Tensor) -> Any:
    """`model`, whose first layer sees these streams and not its embedding's, repeated."""
    model.model.layers[0].register_forward_pre_hook(lambda _m, args: (streams, *args[1:]))
    return model


def predicted_logits(
    model: Any, folder: Path, count: int, token_ids: NDArray[np.int32]
) -> dict[str, F32]:
    """Of each module its logits [tokens - 1 - k, vocab]."""
    ids, eps = torch.from_numpy(token_ids).long()[None], model.config.rms_norm_eps
    found: dict[str, F32] = {}
    with torch.inference_mode():
        _, streams = streams_of(model, ids)
        for k in range(count):
            module, before = module_of(folder, model.config, k)
            tokens = ids[:, 1 + k :]
            x = rms(model.model.embed_tokens(tokens), before["enorm"], eps)
            given = rms(streams[:, : tokens.shape[1]], before["hnorm"], eps)
            joined = linear(x, before["e_proj"]).unsqueeze(2) + linear(given, before["h_proj"])
            logits, streams = streams_of(replaced(module, joined), tokens)
            found[f"predicted_{k}"] = logits.numpy()
    return found
