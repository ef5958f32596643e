"""Where the engines and models of a comparison lie: a TOML file that its user writes.

    threads = 2                                  # default: the cores of this process

    [engines.llamacpp]
    bin = "~/llama.cpp/build/bin"                # llama-bench, llama-batched-bench, ...
    [engines.openvino]
    python = "~/venvs/openvino/bin/python"       # has openvino-genai
    [engines.vllm]
    python = "~/venvs/vllm/bin/python"           # has vLLM built for CPUs
    preload = ["/usr/lib/.../libtcmalloc_minimal.so.4", "~/venvs/vllm/lib/libiomp5.so"]
    [engines.transformers]
    python = "~/venvs/torch/bin/python"
    [engines.ridgeline]                          # default: the Python that runs this
    env = { RIDGELINE_ISA = "avx2" }             # any engine may have an env

    [models.smollm2]
    gguf = "~/models/smollm2.gguf"
    bf16 = "~/models/smollm2-hf"                 # the same weights (workers/write_bf16.py makes it)
    formats = { Q4_0 = "~/models/smollm2-q4_0.gguf" }  # else made by llama-quantize

Relative paths are relative to the file. What is not there is said when it is needed, and the rest
is measured.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENGINES = ("ridgeline", "llamacpp", "openvino", "vllm", "transformers")


@dataclass(frozen=True, slots=True)
class Engine:
    """python: runs the worker; bin: a folder of llama.cpp's tools; preload: shared libraries."""

    python: Path | None = None
    bin: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    preload: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """The same weights as a GGUF file, as a bf16 directory, and in formats of llama.cpp's."""

    gguf: Path | None = None
    bf16: Path | None = None
    formats: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Description:
    threads: int
    engines: Mapping[str, Engine]
    models: Mapping[str, Model]


def read_description(path: Path) -> Description:
    """Raises ValueError with one line: an entry that is not known, or not what it must be."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    reader = _Reader(path)
    reader.known(content, ("threads", "engines", "models"), "the file")
    threads = content.get("threads", len(os.sched_getaffinity(0)))
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"{path}: threads = {threads!r} is not a positive whole number")
    engines = reader.table(content, "engines")
    reader.known(engines, ENGINES, "[engines]")
    models = reader.table(content, "models")
    return Description(
        threads,
        {name: reader.engine(reader.table(engines, name), name) for name in engines},
        {name: reader.model(reader.table(models, name), name) for name in models},
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    path: Path

    def known(self, table: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
        for name in table:
            if name not in names:
                raise ValueError(f"{self.path}: {where} has {name!r}; known: {', '.join(names)}")

    def table(self, parent: Mapping[str, Any], name: str) -> dict[str, Any]:
        value = parent.get(name, {})
        if not isinstance(value, dict):
            raise ValueError(f"{self.path}: {name} must be a table")
        return value

    def file(self, table: Mapping[str, Any], name: str) -> Path | None:
        value = table.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise ValueError(f"{self.path}: {name} = {value!r} must be a path")
        # Not resolved: a virtual environment's python is a link that must stay one.
        return Path(os.path.abspath(self.path.parent / Path(value).expanduser()))

    def engine(self, table: Mapping[str, Any], name: str) -> Engine:
        self.known(table, ("python", "bin", "env", "preload"), f"[engines.{name}]")
        preload = table.get("preload", [])
        if not isinstance(preload, list):
            raise ValueError(f"{self.path}: preload of {name} must be a list of paths")
        return Engine(
            python=self.file(table, "python"),
            bin=self.file(table, "bin"),
            env={key: str(value) for key, value in self.table(table, "env").items()},
            preload=tuple(str(self.file({"preload": p}, "preload")) for p in preload),
        )

    def model(self, table: Mapping[str, Any], name: str) -> Model:
        self.known(table, ("gguf", "bf16", "formats"), f"[models.{name}]")
        formats = self.table(table, "formats")
        files = {kind: self.file(formats, kind) for kind in formats}
        return Model(
            gguf=self.file(table, "gguf"),
            bf16=self.file(table, "bf16"),
            formats={kind: file for kind, file in files.items() if file is not None},
        )
