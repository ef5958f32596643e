"""Architectures: a configuration -> a graph. One file a family, one row a name.

To add a model of known blocks: its file here, its rows below and in `weights/names.py`, a golden
case. Knows what files call things only through the tables that a row points to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ridgeline.errors import ModelError
from ridgeline.model.architectures.blocks import AS_PUBLISHED, Stored
from ridgeline.model.architectures.fields import Fields, quote
from ridgeline.model.architectures.gemma3 import build_gemma3
from ridgeline.model.architectures.llama import build_llama, build_mistral
from ridgeline.model.architectures.phi3 import build_phi3
from ridgeline.model.architectures.qwen2 import build_qwen2
from ridgeline.model.architectures.qwen3 import build_qwen3
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.node import Graph
from ridgeline.model.weights import names
from ridgeline.model.weights.names import Names

__all__ = ["ARCHITECTURES", "Architecture", "Source", "build", "find_architecture"]

Source = Literal["hf", "gguf"]
BuildGraph = Callable[[Fields, FormatOf, Stored, int | None], Graph]


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one kind of checkpoint becomes a graph.

    source: whose name it is. build: (configuration, formats, conventions, context) -> Graph.
    model_types: what `model_type` may say, if the configuration has it.
    """

    source: Source
    build: BuildGraph
    names: Names
    stored: Stored = AS_PUBLISHED
    model_types: tuple[str, ...] = ()


def hf(build: BuildGraph, modules: Mapping[str, str], model_type: str) -> Architecture:
    layout = Names(modules, names.HF_ROOTS, names.HF_HARMLESS)
    return Architecture("hf", build, layout, model_types=(model_type,))


def gguf(
    build: BuildGraph,
    modules: Mapping[str, str],
    stored: Stored = AS_PUBLISHED,
) -> Architecture:
    return Architecture("gguf", build, Names(modules, harmless=names.GGUF_HARMLESS), stored)


HF_QWEN3 = {**names.HF_LLAMA, **names.HF_HEAD_NORMS}
GGUF_QWEN3 = {**names.GGUF_LLAMA, **names.GGUF_HEAD_NORMS}
HF_GEMMA3 = Architecture(
    "hf",
    build_gemma3,
    Names(names.HF_GEMMA3, names.HF_GEMMA3_ROOTS, names.HF_GEMMA3_HARMLESS),
    model_types=("gemma3", "gemma3_text"),
)

# By `architectures[0]` of config.json and by `general.architecture` of GGUF.
ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": hf(build_llama, names.HF_LLAMA, "llama"),
    "MistralForCausalLM": hf(build_mistral, names.HF_LLAMA, "mistral"),
    "Qwen2ForCausalLM": hf(build_qwen2, names.HF_LLAMA, "qwen2"),
    "Qwen3ForCausalLM": hf(build_qwen3, HF_QWEN3, "qwen3"),
    "Gemma3ForCausalLM": HF_GEMMA3,
    "Gemma3ForConditionalGeneration": HF_GEMMA3,
    "Phi3ForCausalLM": hf(build_phi3, names.HF_PHI3, "phi3"),
    "llama": gguf(build_llama, names.GGUF_LLAMA, Stored(interleaved_rope=True)),
    "qwen2": gguf(build_qwen2, names.GGUF_LLAMA),
    "qwen3": gguf(build_qwen3, GGUF_QWEN3),
    "gemma3": gguf(build_gemma3, names.GGUF_GEMMA3, Stored(norm_has_one=True)),
    "phi3": gguf(build_phi3, names.GGUF_PHI3),
}


def find_architecture(
    config: Mapping[str, object], where: str, source: Source | None = None
) -> tuple[str, Architecture]:
    """The row of `architectures[0]`, or without it of `model_type`, among those of `source`;
    ModelError lists what there is.
    """
    supported = {
        name: row for name, row in ARCHITECTURES.items() if source is None or row.source == source
    }
    listed, model_type = config.get("architectures"), config.get("model_type")
    name = listed[0] if isinstance(listed, list | tuple) and listed else None
    if listed is None and model_type is not None:
        # A configuration may name its family only, as the one of a base model often does.
        of_type = (key for key, row in supported.items() if model_type in row.model_types)
        name = next(of_type, None)
    if not isinstance(name, str):
        raise ModelError(
            f"{where}: architectures = {quote(listed)}, model_type = {quote(model_type)}: a list "
            f"with the model's architecture is needed; supported: {', '.join(supported)}"
        )
    if name not in supported:
        raise ModelError(
            f"{where}: architecture {quote(name)} is not supported; supported: "
            f"{', '.join(supported)}"
        )
    row = supported[name]
    if row.model_types and model_type is not None and model_type not in row.model_types:
        raise ModelError(
            f"{where}: model_type = {quote(model_type)} contradicts architectures = "
            f"{quote(name)}, which is {' or '.join(row.model_types)}"
        )
    return name, row


def build(
    config: Mapping[str, object],
    format_of: FormatOf,
    *,
    context_length: int | None = None,
    where: str = "config",
    spelled: Mapping[str, str] | None = None,
) -> Graph:
    """The graph of `config` (a parsed config.json, or `gguf_config` of a GGUF file), checked.

    format_of: a weight's canonical name -> how it is stored. context_length: tokens to build for,
    by default what the model was made for: rotary scalings that depend on the length of a sequence
    (dynamic NTK, LongRoPE) are fixed for it. where, spelled: the file and its names for fields, for
    messages. ModelError names the field that is missing, contradictory, absurd or not supported.
    """
    _, row = find_architecture(config, where)
    fields = Fields(config, where, spelled or {})
    graph = row.build(fields, format_of, row.stored, context_length)
    check_graph(graph)
    return graph
