"""What stands beside an embedding model in sentence-transformers' files: how its tokens are pooled.

`modules.json` lists the stages after the model; a folder each, of which only the pooling's is read.
Does not know graphs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ridgeline.errors import ModelError
from ridgeline.model.weights.contents import open_regular
from ridgeline.model.weights.json_object import (
    CONFIG_LIMIT_BYTES,
    parse_json_object,
    read_json_object,
)

MODULES = "modules.json"
# Where files are kept without folders (`sources/select.py`).
FLAT_POOLING = "1_Pooling.json"

# A stage's flag in the pooling's file -> what it is called here.
POOLING_FLAGS: dict[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
KNOWN_STAGES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class SentenceFiles:
    """pooling: "mean", "cls" or "last"."""

    pooling: str


def read_sentence_files(directory: Path) -> SentenceFiles | None:
    """None if the directory has no modules.json. ModelError names a stage that is not supported."""
    path = directory / MODULES
    if not path.is_file():
        return None
    with open_regular(path) as file:
        data = file.read(CONFIG_LIMIT_BYTES)
    # A list; everything else that is read here is an object.
    modules = parse_json_object(b'{"modules": ' + data + b"}", str(path))["modules"]
    if not isinstance(modules, list):
        raise ModelError(f"{path}: a list of stages is needed")
    pooling = None
    for module in modules:
        kind = module.get("type") if isinstance(module, dict) else None
        name = kind.rpartition(".")[2] if isinstance(kind, str) else ""
        if name not in KNOWN_STAGES:
            raise ModelError(
                f"{path}: stage {name[:60]!r} is not supported; supported: "
                f"{', '.join(KNOWN_STAGES)}"
            )
        if name == "Pooling":
            pooling = read_pooling(directory, str(module.get("path")))
    if pooling is None:
        raise ModelError(f"{path}: no stage pools the tokens; say how: pooling='mean' or 'cls'")
    return SentenceFiles(pooling)


def read_pooling(directory: Path, folder: str) -> str:
    """The one mode that the pooling's file turns on."""
    if not re.fullmatch(r"[A-Za-z0-9_]+", folder):
        raise ModelError(f"{directory / MODULES}: path {folder[:60]!r} is not a folder's name")
    nested, flat = directory / folder / "config.json", directory / FLAT_POOLING
    path = nested if nested.is_file() or not flat.is_file() else flat
    settings = read_json_object(path)
    on = [
        key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True
    ]
    if len(on) != 1 or on[0] not in POOLING_FLAGS:
        raise ModelError(
            f"{path}: {', '.join(on)[:200] or 'no pooling'} is not supported; supported: one of "
            f"{', '.join(POOLING_FLAGS)}"
        )
    return POOLING_FLAGS[on[0]]
