"""Broken models rather than broken files: the layout is right, and what it says is not.

Seeds are the golden checkpoints, each architecture as GGUF and as config.json, without the weights'
values. What opens is built into a graph, bound, and its tokenizer used.
"""

from __future__ import annotations

import json
import struct
from copy import deepcopy
from functools import cache
from pathlib import Path
from random import Random

import gguf
import tokenizers
from mutate import KEYS, changed_part, mutated_json, mutated_pieces
from small_files import ARRAY, BOOL, CODES, F32, F64, STRING, Tensor, gguf_pieces, joined

from ridgeline.errors import ModelError
from ridgeline.model.formats import FORMATS
from ridgeline.model.opened import describe, open_model
from ridgeline.model.text.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
TEXT = "Hello, wörld! 日本 123\n\n\t<s> 🙂"
SIZES = [0, 1, 2, 3, 5, 7, 64, 100, 128, 1024, 1 << 16, (1 << 31) - 1, (1 << 32) - 1, 1 << 40]
FLOATS = [0.0, -1.0, 0.5, 1.0, 1e-5, 1e30, 1e-38, float("inf"), float("-inf"), float("nan")]
WORDS = ["", "llama", "gemma3", "gpt2", "none", "yarn", "longrope", "linear", "default", "\0", "é"]

Metadata = list[tuple[str, int, object]]


@cache
def seed_models() -> list[tuple[Metadata, list[Tensor]]]:
    """Metadata and tensors of every golden GGUF, by the gguf package's own reader."""
    seeds = []
    for path in sorted(GOLDEN.glob("*/model.gguf")):
        reader = gguf.GGUFReader(path)
        metadata: Metadata = []
        for field in reader.fields.values():
            if field.name.startswith("GGUF."):
                continue
            value = field.contents()
            if field.types[0] == ARRAY:
                value = (int(field.types[1]), tuple(value))
            metadata.append((field.name, int(field.types[0]), value))
        tensors = [
            Tensor(each.name, tuple(map(int, each.shape)), int(each.tensor_type), b"")
            for each in reader.tensors
        ]
        seeds.append((metadata, tensors))
    return seeds


@cache
def seed_configs() -> list[dict[str, object]]:
    folders = (*GOLDEN.glob("*/config.json"), *GOLDEN.glob("encoders/*/config.json"))
    return [json.loads(path.read_text()) for path in sorted(folders)]


@cache
def seed_tokenizer() -> dict[str, object]:
    """A byte-level tokenizer.json with a few merges and special tokens."""
    model = tokenizers.models.BPE()
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["hello world, hello there", TEXT], trainer)
    found: dict[str, object] = json.loads(made.to_str())
    return found


def filled(tensor: Tensor) -> Tensor:
    """The tensor with zeros of the size that its type and dimensions ask for, if that is small."""
    for each in FORMATS.values():
        if each.gguf_type == tensor.type:
            elements = 1
            for dimension in tensor.dimensions:
                elements *= dimension
            size = elements // each.block_elements * each.block_bytes
            return Tensor(tensor.name, tensor.dimensions, tensor.type, bytes(min(size, 1 << 18)))
    return tensor


def edge_value(kind: int, rng: Random) -> object:
    if kind == STRING:
        return rng.choice(WORDS)
    if kind == ARRAY:
        inner = rng.choice((4, 5, F32, BOOL, STRING))
        return (inner, tuple(edge_value(inner, rng) for _ in range(rng.choice((0, 1, 2, 3, 40)))))
    if kind in (F32, F64):
        return rng.choice(FLOATS)
    if kind == BOOL:
        return rng.random() < 0.5
    bits = 8 * struct.calcsize(CODES[kind])
    value = rng.choice(SIZES) % (1 << bits)
    return value - (1 << bits) if CODES[kind].islower() and value >= 1 << (bits - 1) else value


def change_metadata(metadata: Metadata, rng: Random) -> None:
    at = rng.randrange(len(metadata))
    key, kind, value = metadata[at]
    match rng.randrange(7):
        case 0:
            del metadata[at]
        case 1:
            kind = rng.choice((*CODES, STRING, ARRAY))
            metadata[at] = (key, kind, edge_value(kind, rng))
        case 2:
            other = rng.choice(metadata)
            metadata[at] = (key, *other[1:])
        case 3:
            metadata.append((rng.choice(KEYS[:6]).decode(), kind, value))
        case _ if kind == ARRAY:
            metadata[at] = (key, kind, changed_array(value, rng))
        case _:
            metadata[at] = (key, kind, edge_value(kind, rng))


def changed_array(value: object, rng: Random) -> tuple[int, tuple[object, ...]]:
    assert isinstance(value, tuple)
    inner, items = value[0], list(value[1])
    for _ in range(rng.choice((1, 1, 3, 20))):
        match rng.randrange(4):
            case 0 if items:
                del items[rng.randrange(len(items)) :]
            case 1:
                items.append(edge_value(inner, rng))
            case 2 if items:
                items[rng.randrange(len(items))] = rng.choice(items)
            case _ if items:
                items[rng.randrange(len(items))] = edge_value(inner, rng)
    return inner, tuple(items)


def change_tensor(tensors: list[Tensor], rng: Random) -> None:
    at = rng.randrange(len(tensors))
    tensor, other = tensors[at], rng.choice(tensors)
    match rng.randrange(5):
        case 0:
            del tensors[at]
        case 1:
            kinds = [each.gguf_type for each in FORMATS.values()]
            kind = rng.choice([kind for kind in kinds if kind is not None])
            tensors[at] = Tensor(tensor.name, tensor.dimensions, kind, b"")
        case 2:
            tensors[at] = Tensor(tensor.name, other.dimensions, tensor.type, b"")
        case 3:
            name = rng.choice((f"{tensor.name}x", "rope_freqs.weight", "output.weight", other.name))
            tensors[at] = Tensor(name, tensor.dimensions, tensor.type, b"")
        case _:
            sizes = list(tensor.dimensions)
            sizes[rng.randrange(len(sizes))] = rng.choice((1, 2, 32, 64, 96, 127, 256, 1024))
            tensors[at] = Tensor(tensor.name, tuple(sizes), tensor.type, b"")


def broken_model(rng: Random) -> tuple[dict[str, bytes], str]:
    """A GGUF that says something else than its architecture expects."""
    seed = rng.choice(seed_models())
    metadata, tensors = list(seed[0]), list(seed[1])
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.7:
            change_metadata(metadata, rng)
        elif tensors:
            change_tensor(tensors, rng)
    pieces = gguf_pieces(metadata, [filled(each) for each in tensors])
    data = mutated_pieces(pieces, rng) if rng.random() < 0.1 else joined(pieces)
    return {"m.gguf": data}, "m.gguf"


def broken_config(rng: Random) -> tuple[dict[str, bytes], str]:
    """A config.json by itself, as `inspect` takes it."""
    config = deepcopy(rng.choice(seed_configs()))
    key = rng.choice(list(config))
    config[key] = changed_part(config[key], rng, 2) if rng.random() < 0.6 else rng.choice(SIZES)
    text = mutated_json(config, rng) if rng.random() < 0.4 else json.dumps(config).encode()
    return {"config.json": text}, "config.json"


def broken_tokenizer(rng: Random) -> tuple[dict[str, bytes], str]:
    return {"tokenizer.json": mutated_json(seed_tokenizer(), rng)}, "."


def read_model(path: Path) -> None:
    opened = open_model(path)
    opened.weights.float32(opened.graph.weights[0])
    use_tokenizer(Tokenizer.from_gguf(opened.checkpoint.metadata))


def read_config(path: Path) -> None:
    if not describe(path).weights:
        raise ModelError(f"{path}: a graph without weights")


def read_tokenizer(path: Path) -> None:
    use_tokenizer(Tokenizer.from_directory(path))


def use_tokenizer(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    assert all(0 <= each < tokenizer.vocab_size for each in ids)
    tokenizer.decode(ids)
    for index in range(0, tokenizer.vocab_size, max(1, tokenizer.vocab_size // 16)):
        tokenizer.token_bytes(index)
        tokenizer.token_text(index)
