"""Make the golden speech models: tiny random Whispers, and what transformers computes of noise.

    python tests/golden/speech/make_speech.py

Needs torch, transformers and safetensors; the tests need none of these. Each case's folder gets

    config.json        as published
    model.safetensors  every weight, float32
    expected.npz       features float32 [texts, mels, frames], token_ids int32 [texts, tokens],
                       hidden float32 [texts, positions, width], logits float32 [texts, tokens,
                       vocab]

Weights come from NumPy's generator, seeded by the case's and the tensor's name.
"""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import WhisperConfig, WhisperForConditionalGeneration

HERE = Path(__file__).parent
TEXTS, TOKENS = 2, 20

CASES: dict[str, dict[str, Any]] = {
    "whisper": {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": 96,
        "d_model": 32,
        "num_mel_bins": 10,
        "encoder_layers": 3,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 40,
        "max_source_positions": 37,
        "max_target_positions": 48,
        "activation_function": "gelu",
        "scale_embedding": False,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "decoder_start_token_id": 2,
        "torch_dtype": "float32",
    },
}


def generator(*names: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32("/".join(names).encode())))


def random_weight(case: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = generator(case, name).standard_normal(shape)
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.3 * noise
    if name.endswith("bias"):
        return 0.3 * noise
    if "embed" in name:
        return 0.5 * noise
    fan = int(np.prod(shape[1:]))
    return (1.6 if "q_proj" in name or "k_proj" in name else 1.0) * noise / np.sqrt(fan)


def make(case: str, config: dict[str, Any]) -> None:
    folder = HERE / case
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig.from_dict(config | {"attn_implementation": "eager"})
    ).eval()
    # The output matrix is the embedding.
    state = {k: v for k, v in model.state_dict().items() if k != "proj_out.weight"}
    weights = {
        name: torch.from_numpy(random_weight(case, name, tuple(value.shape)).astype(np.float32))
        for name, value in state.items()
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model.load_state_dict(
        weights | {"proj_out.weight": weights["model.decoder.embed_tokens.weight"]}
    )
    positions = config["max_source_positions"]
    features = generator(case, "features").standard_normal(
        (TEXTS, config["num_mel_bins"], 2 * positions)
    )
    features = features.astype(np.float32)
    ids = generator(case, "ids").integers(0, config["vocab_size"], (TEXTS, TOKENS))
    with torch.inference_mode():
        out = model(
            input_features=torch.from_numpy(features),
            decoder_input_ids=torch.from_numpy(ids.astype(np.int64)),
        )
    np.savez_compressed(
        folder / "expected.npz",
        features=features,
        token_ids=ids.astype(np.int32),
        hidden=out.encoder_last_hidden_state.numpy(),
        logits=out.logits.numpy(),
    )


if __name__ == "__main__":
    for name, fields in CASES.items():
        make(name, fields)
