"""A tiny model that sees: the golden checkpoint with a tokenizer and a template; and pictures."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

GOLDEN = Path(__file__).parent / "golden" / "images"
BEGIN, END, PLACEHOLDER, TOKENS = 123, 124, 125, 4
TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }} {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}<begin>{% else %}{{ p.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


# What stands for an image in a text: the token that it begins with, or all of it.
GRID_KINDS = ("qwen2_vl", "qwen2_5_vl")
ON_GRID = "<begin><soft><end>"


def seeing_model(made: Path, kind: str = "gemma3") -> Path:
    """The checkpoint with a word a token, and the four tokens that images need, in `made`."""
    shutil.copytree(GOLDEN / kind, made)
    words = {f"w{i}": i for i in range(123)} | {"<begin>": BEGIN, "<end>": END, "<soft>": 125}
    words |= {"<bos>": 126, "<eos>": 127}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["<begin>", "<end>", "<soft>", "<bos>", "<eos>"])
    tokenizer.save(str(made / "tokenizer.json"))
    template = TEMPLATE.replace("<begin>", ON_GRID) if kind in GRID_KINDS else TEMPLATE
    config = {"chat_template": template, "eos_token": "<eos>", "bos_token": "<bos>"}
    (made / "tokenizer_config.json").write_text(json.dumps(config))
    return made


def picture(seed: int, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (31, 47, 3), np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, form)
    return file.getvalue()
