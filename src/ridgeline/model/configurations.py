"""Configurations of published models by name, for planning without their weights.

`configurations.jsonl` has one model a line: its Hugging Face id, the fields of its config.json, and
where those were read. A name is an id, or the beginning of one in any spelling: `llama-3.3-70b`,
`Qwen 3 235B`, `deepseek-v3.1`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from importlib.resources import files

from ridgeline.errors import ModelError

# What vendors put before or behind a name that people leave out.
DROPPED = ("meta", "nvidia", "ai21")


@dataclass(frozen=True, slots=True)
class Configuration:
    """id: owner/name on the hub. config: the fields of its config.json that matter."""

    id: str
    config: Mapping[str, object]
    source: str
    retrieved: str

    @property
    def short(self) -> str:
        return self.id.split("/")[-1]


def find_configuration(name: str) -> Configuration | None:
    """The model of that name; of several that begin with it the shortest. None: there is none."""
    known = _known()
    if name in known:
        return known[name]
    asked = _words(name)
    if not asked:
        return None
    having = []
    for configuration in known.values():
        words = _words(configuration.short)
        if words[: len(asked)] == asked or _words(configuration.id) == asked:
            having.append(configuration)
    return min(having, key=lambda c: (len(_words(c.short)), len(c.id)), default=None)


def load_configuration(name: str) -> Configuration:
    """`find_configuration`, or a ModelError that names the nearest."""
    found = find_configuration(name)
    if found is None:
        near = ", ".join(nearest_configurations(name))
        raise ModelError(f"there is no configuration {name!r}; nearest: {near}")
    return found


def nearest_configurations(name: str, count: int = 4) -> list[str]:
    """The names that look most like it."""
    asked = _words(name)

    def likeness(configuration: Configuration) -> float:
        words = _words(configuration.short)[: max(1, len(asked))]
        return SequenceMatcher(None, "-".join(asked), "-".join(words)).ratio()

    near = sorted(_known().values(), key=lambda c: (-likeness(c), len(c.id)))
    return [c.short.lower() for c in near[:count]]


def configurations() -> tuple[Configuration, ...]:
    return tuple(_known().values())


def _words(name: str) -> tuple[str, ...]:
    """`Qwen-2.5-72B` and `qwen2.5_72b` are both ("qwen2.5", "72b")."""
    parts = [p for p in re.split(r"[^a-z0-9.]+", name.lower()) if p]
    words: list[str] = []
    for part in parts:
        if not words and part in DROPPED and len(parts) > 1:
            continue
        if words and part[0].isdigit() and words[-1].isalpha() and len(words) == 1:
            words[-1] += part
        else:
            words.append(part)
    return tuple(words)


@cache
def _known() -> dict[str, Configuration]:
    text = files("ridgeline.model").joinpath("configurations.jsonl").read_text("utf-8")
    entries = [json.loads(line) for line in text.splitlines()]
    return {
        e["id"]: Configuration(e["id"], e["config"], e["source"], e["retrieved"]) for e in entries
    }
