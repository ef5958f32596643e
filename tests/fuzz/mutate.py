"""Seeded damage to model files: by meaning (counts, lengths, types, offsets, JSON values) and by
byte.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from random import Random

from small_files import Piece, joined

EDGES = [0, 1, 2, 3, 7, 8, 15, 31, 32, 33, 63, 64, 255, 256, 4095, 4096, 65535, 65536]
EDGES += [2**k + d for k in (20, 24, 31, 32, 40, 48, 62, 63, 64) for d in (-1, 0, 1)]

KEYS = [
    b"general.alignment",
    b"general.architecture",
    b"split.no",
    b"split.count",
    b"split.tensors.count",
    b"tokenizer.ggml.tokens",
    b"",
    b"\xff\xfe",
    b"\0" * 9,
    b"k" * 3000,
    "é日本".encode(),
]

JSON_EDGES: list[object] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    4,
    24,
    2**31,
    2**48,
    2**63,
    2**64,
    10**40,
    -(10**40),
    0.5,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "F32",
    "BF16",
    "I64",
    "F8_E4M3",
    "F99",
    "../../x.safetensors",
    "a.safetensors",
    "b.safetensors",
    "\ud800",
    "\0",
    "x" * 5000,
    [],
    [0],
    [0, 0],
    [1, 2, 3],
    [[]],
    [0] * 5000,
    {},
    {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    {"": {"": {"": {}}}},
]


def mutated_pieces(pieces: Sequence[Piece], rng: Random) -> bytes:
    """A GGUF file with one to four of its pieces changed, then perhaps damaged by byte."""
    changed = list(pieces)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        rng.choice(PIECE_CHANGES)(changed, rng)
    data = joined(changed)
    return mutated_bytes(data, rng) if rng.random() < 0.25 else data


def change_number(pieces: list[Piece], rng: Random) -> None:
    """Twice as likely as the rest: a number that the file's layout hangs on."""
    spots = [
        i for i, each in enumerate(pieces) if len(each.data) in (4, 8) and each.label != "data"
    ]
    if not spots:
        return
    at = rng.choice(spots)
    size = len(pieces[at].data)
    now = int.from_bytes(pieces[at].data, "little")
    value = rng.choice(
        (
            rng.choice(EDGES),
            now + rng.choice((-33, -32, -8, -1, 1, 8, 32, 33)),
            rng.randrange(48),
            rng.getrandbits(8 * size),
            len(joined(pieces)) + rng.randrange(-64, 64),
            int.from_bytes(pieces[at].data, "big"),
        )
    )
    data = (value % (1 << 8 * size)).to_bytes(size, "little")
    pieces[at] = replace(pieces[at], data=data)


def change_text(pieces: list[Piece], rng: Random) -> None:
    """Another string, its length told rightly more often than not."""
    spots = [i for i, each in enumerate(pieces) if each.label == "text" and i > 0]
    if not spots:
        return
    at = rng.choice(spots)
    texts = [pieces[i].data for i in spots]
    text = rng.choice((rng.choice(KEYS), rng.choice(texts), rng.randbytes(rng.randrange(40))))
    pieces[at] = replace(pieces[at], data=text)
    if rng.random() < 0.7:
        pieces[at - 1] = replace(pieces[at - 1], data=struct.pack("<Q", len(text)))


def change_content(pieces: list[Piece], rng: Random) -> None:
    at = rng.randrange(len(pieces))
    pieces[at] = replace(pieces[at], data=rng.randbytes(len(pieces[at].data)))


def drop(pieces: list[Piece], rng: Random) -> None:
    if len(pieces) > 1:
        at = rng.randrange(len(pieces))
        del pieces[at : at + rng.choice((1, 1, 2, 5))]


def repeat(pieces: list[Piece], rng: Random) -> None:
    at = rng.randrange(len(pieces))
    run = pieces[at : at + rng.choice((1, 2, 3, 5))]
    pieces[at:at] = run * rng.choice((1, 1, 2, 30))


def swap(pieces: list[Piece], rng: Random) -> None:
    i, j = rng.randrange(len(pieces)), rng.randrange(len(pieces))
    pieces[i], pieces[j] = pieces[j], pieces[i]


def pad(pieces: list[Piece], rng: Random) -> None:
    pieces.insert(rng.randrange(len(pieces) + 1), Piece("padding", bytes(rng.choice((1, 8, 4096)))))


PIECE_CHANGES: list[Callable[[list[Piece], Random], None]] = [
    change_number,
    change_number,
    change_number,
    change_number,
    change_text,
    change_text,
    change_content,
    drop,
    repeat,
    swap,
    pad,
]


def mutated_bytes(data: bytes, rng: Random) -> bytes:
    """Flips, edge numbers, cuts, repeats and insertions anywhere."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        if not changed:
            return bytes(changed)
        at = rng.randrange(len(changed))
        match rng.randrange(7):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                size = rng.choice((2, 4, 8))
                edge = rng.choice(EDGES) % (1 << 8 * size)
                changed[at : at + size] = edge.to_bytes(size, "little")
            case 3:
                del changed[at : at + rng.choice((1, 2, 8, 64))]
            case 4:
                changed[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))
            case 5:
                changed[at:at] = changed[at : at + rng.choice((4, 16, 64))]
            case _:
                if rng.random() < 0.4:
                    del changed[at:]
    return bytes(changed)


def mutated_json(value: object, rng: Random) -> bytes:
    """The value with one to three of its parts changed, as text, then perhaps damaged by byte."""
    changed = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 2, 3))):
        changed = changed_part(changed, rng, rng.randrange(4))
    text = json.dumps(changed).encode()
    if rng.random() < 0.05:
        text = rng.choice((b"[", b'{"a":', b"[{},")) * rng.choice((10, 3000, 100_000)) + text
    if rng.random() < 0.05 and text[:1] == b"{":
        text = text[:-1] + b"," + text[1:]
    return mutated_bytes(text, rng) if rng.random() < 0.2 else text


def json_edge(rng: Random) -> object:
    """A value of its own: one that stands in two places could be put into itself."""
    return deepcopy(rng.choice(JSON_EDGES))


def changed_part(value: object, rng: Random, depth: int) -> object:
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        match rng.randrange(8) if depth == 0 else 7:
            case 0:
                del value[key]
            case 1:
                name = rng.choice(("", "x", key + "2", "__metadata__", "weight_map"))
                value[name] = deepcopy(value[key])
            case 2:
                value[key] = json_edge(rng)
            case 3:
                other = rng.choice(list(value))
                value[key], value[other] = value[other], value[key]
            case _:
                value[key] = changed_part(value[key], rng, max(0, depth - 1))
        return value
    if isinstance(value, list) and value and depth > 0:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            value.append(json_edge(rng))
        else:
            value[at] = changed_part(value[at], rng, 0)
        return value
    if type(value) is int and rng.random() < 0.6:
        return value + rng.choice((-33, -8, -4, -2, -1, 1, 2, 4, 8, 33))
    return json_edge(rng)
