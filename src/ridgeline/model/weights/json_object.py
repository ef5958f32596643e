"""JSON from outside, strictly: UTF-8, one object, no key twice, no NaN, bounded size.

Does not know what the keys mean.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Never

from ridgeline.errors import ModelError
from ridgeline.model.weights.contents import open_regular, quoted, unreadable

# Real configurations are a few kilobytes, real shard indices at most a few megabytes.
CONFIG_LIMIT_BYTES = 4 << 20
INDEX_LIMIT_BYTES = 64 << 20

# A value takes many times its text in memory; 100,000 tensors in one file are below this.
MAX_VALUES = 1 << 20


def read_json_object(path: Path, limit_bytes: int = CONFIG_LIMIT_BYTES) -> dict[str, object]:
    """The object in a JSON file; ModelError names the file and what is wrong with it."""
    with open_regular(path) as file:
        # Asked for the limit, `read` would make room for all of it first.
        size = os.fstat(file.fileno()).st_size
        if size > limit_bytes:
            raise ModelError(f"{path}: larger than {limit_bytes} bytes: not a model's JSON file")
        try:
            data = file.read(size)
        except OSError as error:
            raise unreadable(path, error) from error
    return parse_json_object(data, str(path))


def parse_json_object(data: bytes, where: str) -> dict[str, object]:
    """The object that these bytes spell; `where` (file and field) begins the ModelError's message.

    Infinity is taken although JSON has none: transformers writes it into config.json.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                refuse(f"key {quoted(key)} stands twice in one object")
            found[key] = value
        return found

    def constant(name: str) -> float:
        if name == "NaN":
            refuse("NaN is not a number that a model can use")
        return float(name)

    def refuse(reason: str) -> Never:
        raise ModelError(f"{where}: {reason}")

    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        refuse(f"more than {MAX_VALUES} values: not a model's JSON")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        refuse(f"not UTF-8 at byte {error.start}: the file is damaged or not JSON")
    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except RecursionError:
        refuse("nested too deeply")
    except ValueError as error:
        refuse(f"not valid JSON: {error}")
    if not isinstance(value, dict):
        refuse(f"a JSON object is needed, not {type(value).__name__}")
    return value
