"""A model, opened: its files become a checked graph and the weights bound to it.

Knows neither where files come from (`weights/sources`) nor who will run the graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ridgeline.errors import ModelError
from ridgeline.model.architectures import build, find_architecture
from ridgeline.model.architectures.fields import quote
from ridgeline.model.formats import FORMATS, Format
from ridgeline.model.graph.node import Graph
from ridgeline.model.quantized import (
    quantized_as,
    read_quantization,
    without_quantization,
)
from ridgeline.model.weights.bound import BoundWeights, bind, check_unused, stored_format
from ridgeline.model.weights.checkpoint import Checkpoint, open_checkpoint
from ridgeline.model.weights.gguf_config import gguf_architecture, gguf_config, spelled
from ridgeline.model.weights.json_object import read_json_object
from ridgeline.model.weights.sentence import read_sentence_files

CONFIG = "config.json"

PREDICTORS = "the multi-token prediction module"
PREDICTOR_COUNTS = (
    "num_nextn_predict_layers",
    "num_mtp_modules",
    "num_mtp_layers",
    "mtp_num_hidden_layers",
)
OF_MODULES = re.compile(r"(model\.)?mtp[._]")
LAYER = re.compile(r"(?:(?:model\.)?layers|blk)\.(\d{1,4})\.")

DTYPES: dict[str, str] = {
    "bfloat16": "BF16",
    "float16": "F16",
    "half": "F16",
    "float32": "F32",
    "float": "F32",
}


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """An open model.

    name: what it calls itself, or its file. architecture: the name by which it was found. config:
    in Hugging Face's words, also for a GGUF. checkpoint.metadata holds a GGUF's tokenizer; a
    directory's lies beside config.json, in checkpoint.path. The checkpoint stays open as long as
    this is held. notes: what a user should know of it.
    """

    name: str
    architecture: str
    graph: Graph
    weights: BoundWeights
    config: Mapping[str, object]
    checkpoint: Checkpoint
    notes: tuple[str, ...] = ()


def open_model(
    path: Path, *, context_length: int | None = None, pooling: str | None = None
) -> OpenedModel:
    """A GGUF file, or a directory of Hugging Face's or CTranslate2's, as a checked graph with
    bound weights.

    context_length: tokens to build for (see `architectures.build`). pooling: of an encoder, over
    what its files say ("mean" or "cls"). Reads headers and, of the
    weights, only rotary factors. ModelError names the file and the field or tensor at fault.
    """
    checkpoint = open_checkpoint(path)
    if checkpoint.kind == "gguf":
        where = str(checkpoint.path)
        named = {"architectures": [gguf_architecture(checkpoint)]}
        architecture, row = find_architecture(named, where, "gguf")
        config: Mapping[str, object] = gguf_config(checkpoint)
        words: Mapping[str, str] = spelled(architecture)
        name = checkpoint.metadata.get("general.name")
    elif checkpoint.kind == "ct2":
        words, name, where = {}, None, str(path)
        config = checkpoint.metadata
        architecture, row = find_architecture(config, where, "ct2")
    else:
        words, name = {}, None
        where = str(path / CONFIG if path.is_dir() else path.with_name(CONFIG))
        config = without_quantization(checkpoint.metadata, where)
        architecture, row = find_architecture(config, where, "hf")
    pooling = pooling or read_pooling(checkpoint)
    if pooling is not None:
        config = {**config, "pooling_mode": pooling}
    root = row.names.find_root(checkpoint.tensors)
    if row.names.stored("head.weight", root) not in checkpoint.tensors:
        config = tied(config)
    graph = build(
        config,
        stored_format(checkpoint, row.names, root),
        context_length=context_length,
        where=where,
        spelled=words,
    )
    weights = bind(graph, checkpoint, row.names, root)
    is_tied = all(weight.name != "head.weight" for weight in graph.weights)
    predictors = predictors_in(weights.unused, config)
    if row.predictors is not None and row.predictors.from_zero:
        predictors |= {name for name in weights.unused if OF_MODULES.match(name)}
    elif row.predictors is None:  # not built, and said so
        known = row.names.harmless.fullmatch
        predictors |= {name for name in weights.unused if OF_MODULES.match(name) and known(name)}
    check_unused(checkpoint, weights.unused, row.names, root, is_tied, predictors)
    if not isinstance(name, str) or not name.strip():
        name = path.resolve().name if path.is_dir() else path.stem
    notes = (f"{len(predictors)} tensors of {PREDICTORS} are not used",) if predictors else ()
    return OpenedModel(name, architecture, graph, weights, config, checkpoint, notes)


def predictors_in(unused: Iterable[str], config: Mapping[str, object]) -> frozenset[str]:
    """Tensors of layers beyond the last, where the configuration says that there are such: they
    predict tokens further ahead (DeepSeek V3, GLM-4.5), and the next one does not depend on them.
    """
    counts = [config.get(name) for name in PREDICTOR_COUNTS]
    layers = config.get("num_hidden_layers")
    if not isinstance(layers, int) or not any(isinstance(n, int) and n > 0 for n in counts):
        return frozenset()
    found = set()
    for name in unused:
        match = LAYER.match(name)
        if match is not None and int(match[1]) >= layers:
            found.add(name)
    return frozenset(found)


def read_pooling(checkpoint: Checkpoint) -> str | None:
    """How sentence-transformers' files pool the tokens; None where there are none."""
    if checkpoint.kind == "gguf" or not checkpoint.path.is_dir():
        return None
    found = read_sentence_files(checkpoint.path)
    return None if found is None else found.pooling


def tied(config: Mapping[str, object]) -> dict[str, object]:
    """`config` where the embedding is the output matrix, because the file has no other."""
    text = config.get("text_config")
    if isinstance(text, Mapping):
        return {**config, "text_config": {**text, "tie_word_embeddings": True}}
    return {**config, "tie_word_embeddings": True}


def describe(
    config: Path | Mapping[str, object],
    *,
    context_length: int | None = None,
    where: str = "config",
) -> Graph:
    """The graph of a bare config.json (its path, its directory's, or its contents), no weights.

    All weights are in the configuration's dtype, BF16 if it names none, or quantized as it says.
    where: the file, for messages, if `config` is its contents.
    """
    if isinstance(config, Path):
        config, where = read_config(config)
    find_architecture(config, where, "hf")
    stored, method = read_dtype(config, where), read_quantization(config, where)
    return build(
        without_quantization(config, where),
        lambda name: quantized_as(method, name, stored),
        context_length=context_length,
        where=where,
    )


def read_config(path: Path) -> tuple[dict[str, object], str]:
    """A config.json, or a directory's, and what messages call it."""
    path = path / CONFIG if path.is_dir() else path
    return read_json_object(path), str(path)


def read_dtype(config: Mapping[str, object], where: str) -> Format:
    """The format of `dtype` or `torch_dtype`, of the text part if the model has several."""
    text = config.get("text_config")
    sections = [config, text] if isinstance(text, Mapping) else [config]
    for section in sections:
        for field in ("dtype", "torch_dtype"):
            value = section.get(field)
            if value is None:
                continue
            name = value.removeprefix("torch.") if isinstance(value, str) else value
            if not isinstance(name, str) or name not in DTYPES:
                raise ModelError(
                    f"{where}: {field} = {quote(value)} is not supported; supported: "
                    f"{', '.join(DTYPES)}"
                )
            return FORMATS[DTYPES[name]]
    return FORMATS["BF16"]
