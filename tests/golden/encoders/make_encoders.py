"""Make the golden encoders: tiny random models, and the rows that transformers makes of four texts.

    python tests/golden/encoders/make_encoders.py [CASE ...]

Needs torch, transformers and safetensors; the tests need none of these. Each case's folder gets

    config.json        as published
    model.safetensors  every weight, float32
    expected.npz       token_ids int32 [all texts, end to end], lengths int32 [texts], and for each
                       kind of row NAME float32 [texts, width]

Weights come from NumPy's generator, seeded by the case's and the tensor's name.
"""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from encoder_cases import ENCODERS, LENGTHS, SEPARATOR, VOCAB, Encoder
from safetensors.torch import save_file

HERE = Path(__file__).parent


def generator(*names: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32("/".join(names).encode())))


def random_weight(case: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = generator(case, name).standard_normal(shape)
    if "norm" in name.lower() and name.endswith("weight"):
        return 1 + 0.3 * noise
    if name.endswith("bias"):
        return 0.3 * noise
    if "embed" in name:
        return 0.5 * noise
    return (1.4 if any(x in name for x in ("query", "key", "qkv", "q_proj")) else 1.0) * (
        noise / np.sqrt(shape[-1])
    )


def texts_of(case: Encoder) -> list[np.ndarray]:
    """Token ids; a pair has the separator in its middle and at its end."""
    texts = []
    for n in LENGTHS:
        ids = generator(case.name, str(n)).integers(2, VOCAB - 2, n).astype(np.int32)
        if case.paired and n > 2:
            ids[n // 2], ids[-1] = SEPARATOR, SEPARATOR
        texts.append(ids)
    return texts


def rows_of(case: Encoder, model: Any, ids: np.ndarray) -> dict[str, np.ndarray]:
    given = {"input_ids": torch.from_numpy(ids).long()[None]}
    if case.paired:
        after = np.cumsum(ids == SEPARATOR) - (ids == SEPARATOR)
        given["token_type_ids"] = torch.from_numpy(np.minimum(after, 1)).long()[None]
    with torch.inference_mode():
        out = model(**given)
    if case.rows == ("logits",):
        return {"logits": out.logits[0].numpy()}
    hidden = out.last_hidden_state[0].double()
    rows = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}
    return {name: rows[name].float().numpy() for name in case.rows}


def make(case: Encoder) -> None:
    folder = HERE / case.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(case.config, indent=1) + "\n")
    loader = getattr(transformers, case.oracle)
    config = transformers.AutoConfig.from_pretrained(folder)
    model = loader.from_config(config, attn_implementation="eager").eval()
    weights = {}
    for name, tensor in model.named_parameters():
        weights[name] = torch.from_numpy(
            random_weight(case.name, name, tuple(tensor.shape)).astype(np.float32)
        )
    model.load_state_dict(weights, strict=False)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    texts = texts_of(case)
    found = [rows_of(case, model, ids) for ids in texts]
    np.savez(
        folder / "expected.npz",
        token_ids=np.concatenate(texts),
        lengths=np.array([len(ids) for ids in texts], np.int32),
        **{name: np.stack([rows[name] for rows in found]) for name in case.rows},
    )
    print(case.name, {name: float(np.std(found[2][name])) for name in case.rows})


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in ENCODERS:
        if not sys.argv[1:] or each.name in sys.argv[1:]:
            make(each)
