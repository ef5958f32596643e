"""Make the golden checkpoint that sees images: a tiny random Gemma 3, and transformers' logits.

    python tests/golden/make_images.py [--out DIR]

As make_checkpoints.py; expected.npz has pixels uint8 [images, size, size, 3], rows float32
[images, tokens, width] that the tower makes of them, token_ids int32 [tokens], images int32
[images, 2] (first token and how many) and logits float32 [tokens, vocab].
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from case import VOCAB, Case, decoder
from make_checkpoints import random_weight
from transformers import AutoConfig, Gemma3ForConditionalGeneration

SIZE, PATCH, TOKENS = 48, 8, 4
PLACEHOLDER, BEGIN, END = 125, 123, 124
MEAN, STD = 0.5, 0.5


def config() -> dict[str, object]:
    text = decoder(
        model_type="gemma3_text",
        num_hidden_layers=4,
        head_dim=24,
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=32,
        sliding_window=7,
        layer_types=["sliding_attention", "full_attention"] * 2,
        rope_local_base_freq=1000.0,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
    )
    text.pop("architectures")
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_channels": 3,
        "image_size": SIZE,
        "patch_size": PATCH,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu_pytorch_tanh",
        "vision_use_head": False,
    }
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": text,
        "vision_config": vision,
        "mm_tokens_per_image": TOKENS,
        "image_token_index": PLACEHOLDER,
        "boi_token_index": BEGIN,
        "eoi_token_index": END,
        "torch_dtype": "bfloat16",
    }


def prompt(rng: np.random.Generator, images: int) -> tuple[list[int], list[tuple[int, int]]]:
    ids, places = [VOCAB - 2, *rng.integers(0, 120, 5).tolist()], []
    for _ in range(images):
        ids += [BEGIN]
        places.append((len(ids), TOKENS))
        ids += [PLACEHOLDER] * TOKENS + [END, *rng.integers(0, 120, 7).tolist()]
    return ids, places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    folder = parser.parse_args().out / "gemma3"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    values = config()
    case = Case("gemma3_images", {"model_type": "gemma3_text"})
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")
    pixels_of = {"image_mean": [MEAN] * 3, "image_std": [STD] * 3, "size": {"height": SIZE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels_of, indent=1) + "\n")
    built = AutoConfig.for_model(**{k: v for k, v in values.items() if k != "architectures"})
    built._attn_implementation = "eager"
    model = Gemma3ForConditionalGeneration(built).eval().to(torch.float32)
    state = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        drawn = random_weight(case, name, tuple(tensor.shape))
        if "mm_input_projection" in name:
            drawn = 4 * drawn  # rows as large as embeddings
        elif "vision_tower" in name and tensor.ndim > 1:
            drawn = drawn / 4
        state[name] = torch.from_numpy(drawn).to(torch.bfloat16)
    model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    model.tie_weights()

    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    ids, places = prompt(rng, 2)
    seen = (torch.from_numpy(pixels).float() / 255 - MEAN) / STD
    types = torch.tensor([[int(i == PLACEHOLDER) for i in ids]])
    with torch.no_grad():
        asked = {"input_ids": torch.tensor([ids]), "pixel_values": seen.permute(0, 3, 1, 2)}
        rows = model.model.get_image_features(asked["pixel_values"]).pooler_output
        out = model(**asked, token_type_ids=types, attention_mask=torch.ones_like(types))
    np.savez(
        folder / "expected.npz",
        pixels=pixels,
        rows=rows.numpy(),
        token_ids=np.array(ids, np.int32),
        images=np.array(places, np.int32),
        logits=out.logits[0].numpy(),
    )
    with TemporaryDirectory() as saved:  # under the names that published files have; rounds tables
        model.to(torch.bfloat16).save_pretrained(saved)
        shutil.copyfile(Path(saved) / "model.safetensors", folder / "model.safetensors")
    print(rows.std(), out.logits.std(), len(ids))


if __name__ == "__main__":
    main()
