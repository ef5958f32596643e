"""Make the golden checkpoints that see images of any size: tiny random Qwen2-VL and Qwen2.5-VL.

    python tests/golden/make_grid_images.py [--out DIR]

As make_images.py; expected.npz has pixels_0 and pixels_1 uint8 [lines, columns, 3], patches_0 and
patches_1 as transformers' processor makes them, rows_0 and rows_1 float32 [tokens, width] that the
tower makes of them; other_N, other_patches_N and other_grid_N of images of other sizes; token_ids
int32 [tokens], images int32 [images, 2] (first token and how many),
positions int32 [tokens, 3] and logits float32 [tokens, vocab].
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
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

PATCH, MERGE, FRAMES = 4, 2, 2
PLACEHOLDER, VIDEO, BEGIN, END = 125, 122, 123, 124
# Of cells of 8 pixels: 3 x 5, whose windows of 2 x 2 are cut at both edges, and 2 x 1.
SIZES = ((24, 40), (16, 8))
# Near whole cells; above the most pixels, below the least; long.
OTHER_SIZES = ((31, 47), (75, 90), (5, 4), (3, 200))
KINDS = {
    "qwen2_vl": {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "vision_config": {
            "embed_dim": 48,
            "hidden_size": 64,
            "mlp_ratio": 2,
            "hidden_act": "quick_gelu",
        },
    },
    "qwen2_5_vl": {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "vision_config": {
            "hidden_size": 48,
            "out_hidden_size": 64,
            "intermediate_size": 80,
            "hidden_act": "silu",
            "window_size": 16,
            "fullatt_block_indexes": [1, 3],
        },
    },
}


def config(kind: str) -> dict[str, object]:
    vision = {
        "model_type": kind,
        "depth": 4,
        "num_heads": 3,
        "in_channels": 3,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": FRAMES,
        **KINDS[kind]["vision_config"],
    }
    text = decoder(
        architectures=KINDS[kind]["architectures"],
        model_type=kind,
        num_hidden_layers=3,
        rope_theta=1000.0,
        rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]},
        tie_word_embeddings=False,
        use_sliding_window=False,
    )
    ids = {
        "image_token_id": PLACEHOLDER,
        "video_token_id": VIDEO,
        "vision_start_token_id": BEGIN,
        "vision_end_token_id": END,
    }
    for unread in ("attention_bias", "mlp_bias"):
        text.pop(unread)
    return {**text, **ids, "vision_config": vision}


def prompt(rng: np.random.Generator) -> tuple[list[int], list[tuple[int, int]]]:
    ids, places = [VOCAB - 2, *rng.integers(0, 120, 5).tolist()], []
    for lines, columns in SIZES:
        count = lines * columns // (PATCH * MERGE) ** 2
        ids += [BEGIN]
        places.append((len(ids), count))
        ids += [PLACEHOLDER] * count + [END, *rng.integers(0, 120, 6).tolist()]
    return ids, places


def make(kind: str, out: Path) -> None:
    folder = out / kind
    folder.mkdir(parents=True, exist_ok=True)
    values = config(kind)
    case = Case(f"{kind}_images", {"model_type": kind})
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")
    seen_as = {
        "min_pixels": 64,
        "max_pixels": 64 * 40,
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": FRAMES,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(seen_as, indent=1) + "\n")
    processor = Qwen2VLImageProcessorPil(**seen_as)
    built = AutoConfig.for_model(**{k: v for k, v in values.items() if k != "architectures"})
    built._attn_implementation = "eager"
    model = AutoModelForImageTextToText.from_config(built).eval().to(torch.float32)
    state = {}
    for name, tensor in model.state_dict().items():
        drawn = random_weight(case, name, tuple(tensor.shape))
        if "merger.mlp.2" in name:
            drawn = 2 * drawn  # rows as large as embeddings
        elif "visual" in name and tensor.ndim > 1:
            drawn = drawn / 2
        elif "visual" in name and name.endswith(("norm1.weight", "norm2.weight", "ln_q.weight")):
            drawn = 1 + drawn / 2
        state[name] = torch.from_numpy(drawn).to(torch.bfloat16)
    model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)

    rng = np.random.default_rng(11)
    pixels = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    ids, places = prompt(rng)
    asked = processor(pixels, return_tensors="pt", input_data_format="channels_last")
    grids = asked["image_grid_thw"]
    input_ids = torch.tensor([ids])
    types = (input_ids == PLACEHOLDER).int()
    with torch.no_grad():
        rows = model.model.get_image_features(asked["pixel_values"], grids).pooler_output
        positions, _ = model.model.get_rope_index(
            input_ids, image_grid_thw=grids, mm_token_type_ids=types
        )
        out_ = model(
            input_ids=input_ids,
            pixel_values=asked["pixel_values"],
            image_grid_thw=grids,
            mm_token_type_ids=types,
        )
    split = torch.split(asked["pixel_values"], grids.prod(-1).tolist())
    each = {}
    for i in range(len(SIZES)):
        each |= {f"pixels_{i}": pixels[i], f"patches_{i}": split[i].numpy().astype(np.float32)}
        each[f"rows_{i}"] = rows[i].numpy()
    # Of other sizes, as the processor stretches them.
    for i, size in enumerate(OTHER_SIZES):
        other = rng.integers(0, 256, (*size, 3), np.uint8)
        seen = processor(other, return_tensors="pt", input_data_format="channels_last")
        each |= {f"other_{i}": other, f"other_patches_{i}": seen["pixel_values"].numpy()}
        each[f"other_grid_{i}"] = seen["image_grid_thw"][0, 1:].numpy()
    np.savez(
        folder / "expected.npz",
        token_ids=np.array(ids, np.int32),
        images=np.array(places, np.int32),
        positions=positions[:, 0].T.numpy().astype(np.int32),
        logits=out_.logits[0].numpy(),
        **each,
    )
    with TemporaryDirectory() as saved:  # under the names that published files have; rounds tables
        model.to(torch.bfloat16).save_pretrained(saved)
        shutil.copyfile(Path(saved) / "model.safetensors", folder / "model.safetensors")
    print(kind, rows[0].std(), out_.logits.std(), len(ids), positions[:, 0, -1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    for kind in KINDS:
        make(kind, out)


if __name__ == "__main__":
    main()
