"""What a row of the table of architectures is, and rows that several names share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ridgeline.model.architectures.blocks import AS_PUBLISHED, Stored
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.gemma3 import build_gemma3
from ridgeline.model.architectures.gemma3n import build_gemma3n
from ridgeline.model.architectures.gemma4 import build_gemma4
from ridgeline.model.architectures.gpt2 import build_gpt2
from ridgeline.model.architectures.gpt_neox import build_gpt_neox
from ridgeline.model.architectures.llama4 import build_llama4
from ridgeline.model.architectures.minimax import build_minimax
from ridgeline.model.architectures.minimax_m3 import build_minimax_m3
from ridgeline.model.architectures.ministral3 import build_mistral3
from ridgeline.model.architectures.qwen2_vl import (
    Cells,
    build_qwen2_vl,
    build_qwen2_vl_images,
    read_cells,
)
from ridgeline.model.architectures.qwen3_next import (
    build_qwen3_5,
    build_qwen3_5_moe,
    build_qwen3_next,
)
from ridgeline.model.architectures.siglip import build_gemma3_images
from ridgeline.model.architectures.stack import Assemble, build_predictor
from ridgeline.model.architectures.step3p7 import build_step3p7
from ridgeline.model.architectures.whisper import build_whisper
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.weights import (
    names,
    names_dense,
    names_encoders,
    names_moe,
    names_predictors,
    names_recurrent,
    names_vision,
    names_whisper,
)
from ridgeline.model.weights.names import Names, Root

Source = Literal["hf", "gguf", "ct2"]
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
    predictors: Predictors | None = None
    images: ImageTower | None = None


@dataclass(frozen=True, slots=True)
class ImageTower:
    """What makes rows of an image (`model/images.py`).

    build: (configuration, formats) -> a graph of patches in, rows out. cells: of a tower that sees
    images of any size, how it parts them; None: images are squares of one size.
    """

    build: Callable[[Fields, FormatOf], Graph]
    names: Names
    cells: Callable[[Fields], Cells] | None = None


@dataclass(frozen=True, slots=True)
class Predictors:
    """How the modules of multi-token prediction become graphs (`model/predictors.py`).

    build: the architecture's, told what to assemble. from_zero: layers of modules are numbered from
    0 and not on from the model's. assemble: what `build` is told, but for a module's number.
    """

    build: Callable[[Fields, FormatOf, Stored, int | None, Assemble], Graph]
    names: Names
    from_zero: bool = False
    assemble: Assemble = build_predictor


def hf(
    build: BuildGraph,
    modules: Mapping[str, names.Row],
    model_type: str,
    roots: tuple[Root, ...] = names.HF_ROOTS,
    predictors: Predictors | None = None,
    harmless: re.Pattern[str] = names.HF_HARMLESS,
) -> Architecture:
    layout = Names(modules, roots, harmless)
    return Architecture("hf", build, layout, model_types=(model_type,), predictors=predictors)


def gguf(
    build: BuildGraph,
    modules: Mapping[str, names.Row],
    stored: Stored = AS_PUBLISHED,
) -> Architecture:
    return Architecture("gguf", build, Names(modules, harmless=names.GGUF_HARMLESS), stored)


def bert(build: BuildGraph) -> Architecture:
    layout = Names(names_encoders.HF_BERT, names_encoders.BERT_ROOTS, names_encoders.BERT_HARMLESS)
    return Architecture("hf", build, layout, model_types=("bert",))


def modernbert(build: BuildGraph) -> Architecture:
    layout = Names(
        names_encoders.HF_MODERNBERT,
        names_encoders.MODERNBERT_ROOTS,
        names_encoders.MODERNBERT_HARMLESS,
    )
    return Architecture("hf", build, layout, model_types=("modernbert",))


HF_WHISPER = Architecture(
    "hf",
    build_whisper,
    Names(names_whisper.HF_WHISPER, names_whisper.WHISPER_ROOTS, names_whisper.WHISPER_HARMLESS),
    model_types=("whisper",),
)
HF_QWEN3 = {**names.HF_LLAMA, **names.HF_HEAD_NORMS}
GGUF_QWEN3 = {**names.GGUF_LLAMA, **names.GGUF_HEAD_NORMS}
SCORED = {"head": "{head}score"}
HF_GEMMA3 = Architecture(
    "hf",
    build_gemma3,
    Names(names.HF_GEMMA3, names.HF_GEMMA3_ROOTS, names.HF_GEMMA3_HARMLESS),
    model_types=("gemma3", "gemma3_text"),
)

HF_GEMMA4 = Architecture(
    "hf",
    build_gemma4,
    Names(names_dense.HF_GEMMA4, names.HF_GEMMA3_ROOTS, names.HF_GEMMA3_HARMLESS),
    model_types=("gemma4", "gemma4_text"),
)
HF_GPT2 = Architecture(
    "hf",
    build_gpt2,
    Names(names_dense.HF_GPT2, names_dense.GPT2_ROOTS, names_dense.GPT2_HARMLESS),
    model_types=("gpt2",),
)
HF_GPT_NEOX = Architecture(
    "hf",
    build_gpt_neox,
    Names(names_dense.HF_GPT_NEOX, names_dense.NEOX_ROOTS, names_dense.NEOX_HARMLESS),
    Stored(qkv_by_head=True),
    model_types=("gpt_neox",),
)
HF_GEMMA3N = Architecture(
    "hf",
    build_gemma3n,
    Names(names_dense.HF_GEMMA3N, names.HF_GEMMA3_ROOTS, names_dense.GEMMA3N_HARMLESS),
    model_types=("gemma3n", "gemma3n_text"),
)
HF_LLAMA4 = Architecture(
    "hf",
    build_llama4,
    Names(names_moe.HF_LLAMA4, names.HF_GEMMA3_ROOTS, names.SEEING_HARMLESS),
    model_types=("llama4", "llama4_text"),
)
HF_MISTRAL3 = Architecture(
    "hf",
    build_mistral3,
    Names(names.HF_LLAMA, names.HF_GEMMA3_ROOTS, names.SEEING_HARMLESS),
    model_types=("mistral3",),
)
HF_MINIMAX = Architecture(
    "hf",
    build_minimax,
    Names(names_recurrent.HF_MINIMAX, names.HF_ROOTS, names_recurrent.MINIMAX_HARMLESS),
    model_types=("minimax", "minimax_text_01"),
)
HF_MINIMAX_M3 = Architecture(
    "hf",
    build_minimax_m3,
    Names(names_moe.HF_MINIMAX_M3, names.HF_GEMMA3_ROOTS, names_moe.MINIMAX_M3_HARMLESS),
    model_types=("minimax_m3", "minimax_m3_vl", "minimax_m3_vl_text"),
)
HF_STEP = Architecture(
    "hf",
    build_step3p7,
    Names(names_moe.HF_STEP, names.HF_ROOTS, names_moe.STEP_HARMLESS),
    model_types=("step3p5", "step3p7"),
)
HF_MAMBA, MAMBA_ROOTS = names_recurrent.HF_MAMBA, names_recurrent.MAMBA_ROOTS
HF_QWEN3_5 = Architecture(
    "hf",
    build_qwen3_5,
    Names(names_recurrent.HF_QWEN3_5, names.HF_GEMMA3_ROOTS, names_recurrent.QWEN3_5_HARMLESS),
    model_types=("qwen3_5", "qwen3_5_text"),
)
HF_QWEN3_5_MOE = replace(
    HF_QWEN3_5, build=build_qwen3_5_moe, model_types=("qwen3_5_moe", "qwen3_5_moe_text")
)

QWEN_PREDICTORS = Predictors(
    build_qwen3_next,
    Names(names_predictors.HF_QWEN3_NEXT, names.HF_GEMMA3_ROOTS),
    from_zero=True,
)
HF_QWEN3_5 = replace(HF_QWEN3_5, predictors=replace(QWEN_PREDICTORS, build=build_qwen3_5))
HF_QWEN3_5_MOE = replace(
    HF_QWEN3_5_MOE, predictors=replace(QWEN_PREDICTORS, build=build_qwen3_5_moe)
)

GEMMA3_IMAGES = ImageTower(
    build_gemma3_images, Names(names_vision.HF_GEMMA3_IMAGES, names_vision.IMAGE_ROOTS)
)

HF_QWEN2_VL, HF_QWEN2_5_VL = (
    Architecture(
        "hf",
        build_qwen2_vl,
        Names(names.HF_LLAMA, names.HF_GEMMA3_ROOTS, names_vision.VISUAL_HARMLESS),
        model_types=(model_type, f"{model_type}_text"),
        images=ImageTower(
            build_qwen2_vl_images, Names(modules, names_vision.VISUAL_ROOTS), read_cells
        ),
    )
    for model_type, modules in (
        ("qwen2_vl", names_vision.HF_QWEN2_VL_IMAGES),
        ("qwen2_5_vl", names_vision.HF_QWEN2_5_VL_IMAGES),
    )
)
