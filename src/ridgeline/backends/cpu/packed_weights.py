"""Packed weights kept on disk, so that a model that was loaded once needs no packing again.

A file is mapped in huge pages, in place of memory: programs that run the same model share it. Where
the system has too much of it in small pages, which it chooses when memory is full, it is read into
memory of the program's own and leaves the system's, so that who loads it next finds huge pages
again. It is known by what it was made from (the model's files, the graph's weights, the
instruction set, this build of the kernels), stands under its name only when it is whole, and is
believed only if its checksum is right; what is not believed is removed and packed anew. Where the
system does not map files in huge pages nothing is kept, since reading them would be slower. Does
not know what a weight is for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ridgeline.backends.cpu import _native
from ridgeline.model.graph.node import Graph, Node, StorageFormat
from ridgeline.model.graph.ops.linear import Linear
from ridgeline.units import GB

# Below this, packing takes less than a fifth of a second.
LEAST_BYTES = 128 << 20
# What all files together may take, and how much of what the disk has free a new one may.
MOST_BYTES = 16 * GB
SHARE_OF_FREE = 0.25
# Of a file's bytes, in huge pages where it is mapped. With two thirds a token of 380 MB takes 8 %
# longer, with none 12 %.
LEAST_HUGE_SHARE = 0.95
UNFINISHED_SECONDS = 3600.0
UNUSED_SECONDS = 30 * 24 * 3600.0

SUFFIX = ".packed"
SCREEN_SUFFIX = ".screen"  # of `learned_screen`
UNFINISHED = ".packing-"
MAGIC = b"RIDGEPAK"
LENGTH_BYTES = 8
MAX_DESCRIPTION_BYTES = 1 << 24

Record = tuple[str, int, int, float, int]


@dataclass(frozen=True, slots=True)
class Description:
    """What stands behind the weights in a file.

    num_bytes: of the weights. records: format, n, k, prescale and offset of each matrix, in the
    order in which a graph asks for them.
    """

    key: str
    num_bytes: int
    checksum: int
    records: tuple[Record, ...]


def load(
    folder: Path | None,
    graph: Graph,
    source: object,
    isa: str,
    build: Callable[[], _native.Program],
    fill: Callable[[_native.Program], None],
) -> _native.Program:
    """A program with its weights: `build` makes an empty one, `fill` packs weights into it.

    folder: where packed weights are kept; None: nowhere. source: what identifies the files that the
    weights come from, as JSON can write it; None if nothing does. A file that cannot be used or
    written costs time and nothing else. Raises what `build` and `fill` raise.
    """
    size = sum(weight.num_bytes for weight in graph.weights)
    if folder is not None and source is not None and size >= LEAST_BYTES:
        key = key_of(graph, source, isa)
        path = folder / (key + SUFFIX)
        kept = read(path, key, build, fill) or write(path, key, capacity_of(graph), build, fill)
        if kept is not None:
            return kept
    program = build()
    fill(program)
    return program


def key_of(graph: Graph, source: object, isa: str) -> str:
    """A name for all that the packed bytes follow from."""
    weights = [(weight.name, weight.format.name, weight.shape) for weight in graph.weights]
    screens = [screen.name for node in graph.nodes if (screen := _screen_of(node)) is not None]
    facts = json.dumps([source, weights, screens, isa, build_identity()])
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


@cache
def build_identity() -> str:
    """A name for the kernels' build: layouts are as its code says."""
    return hashlib.sha256(Path(_native.__file__).read_bytes()).hexdigest()


def capacity_of(graph: Graph) -> int:
    """No packing of the graph's weights takes more: 4 bytes a number, channels and K padded; of a
    screen, one.
    """
    screened = [node.weights[0] for node in graph.nodes if _screen_of(node) is not None]
    return sum(
        size * math.prod(weight.shape[:-2]) * -(-rows // 64) * 64 * -(-columns // 64) * 64
        for size, weights in ((4, graph.weights), (1, screened))
        for weight in weights
        for rows, columns in [(1, 1, *weight.shape)[-2:]]
    )


def _screen_of(node: Node) -> StorageFormat | None:
    return node.op.screen if isinstance(node.op, Linear) else None


def read(
    path: Path,
    key: str,
    build: Callable[[], _native.Program],
    fill: Callable[[_native.Program], None],
) -> _native.Program | None:
    """The program over the kept file; None if there is none that can be believed."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        description = describe(file, key)
        if description is not None:
            program = build()
            with contextlib.suppress(ValueError, TypeError, OverflowError, RuntimeError):
                program.read_weights(file, description.num_bytes, description.records)
                program.settle_weights(LEAST_HUGE_SHARE)
                if program.weights_checksum() == description.checksum:
                    os.utime(path)  # the oldest go first
                    fill(program)
                    return program
    except OSError:
        return None
    finally:
        os.close(file)
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def describe(file: int, key: str) -> Description | None:
    """What a kept file says about itself; None if it is not this user's, not whole or not `key`."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        return None
    tail = LENGTH_BYTES + len(MAGIC)
    if status.st_size < tail:
        return None
    end = os.pread(file, tail, status.st_size - tail)
    length = int.from_bytes(end[:LENGTH_BYTES], "little")
    start = status.st_size - tail - length
    if end[LENGTH_BYTES:] != MAGIC or length > MAX_DESCRIPTION_BYTES or start < 0:
        return None
    try:
        fields = json.loads(os.pread(file, length, start))
        records = tuple(
            (str(name), int(n), int(k), float(prescale), int(offset))
            for name, n, k, prescale, offset in fields["records"]
        )
        found = Description(fields["key"], fields["num_bytes"], fields["checksum"], records)
    except (ValueError, TypeError, KeyError):
        return None
    return found if found.key == key and found.num_bytes == start else None


def write(
    path: Path,
    key: str,
    capacity: int,
    build: Callable[[], _native.Program],
    fill: Callable[[_native.Program], None],
) -> _native.Program | None:
    """The program over a new file that is kept at `path`; None where none can be written."""
    file, temporary = -1, ""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not make_room(path.parent, capacity // 4):
            return None
        file, temporary = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent)
        if not _native.maps_in_huge_pages(file):
            return None
        program = build()
        program.write_weights(file, capacity)
        fill(program)
        records = program.finish_weights()
        program.settle_weights(LEAST_HUGE_SHARE)
        num_bytes = program.weights_file_bytes
        fields = {
            "key": key,
            "num_bytes": num_bytes,
            "checksum": program.weights_checksum(),
            "records": records,
        }
        text = json.dumps(fields).encode()
        end = len(text).to_bytes(LENGTH_BYTES, "little") + MAGIC
        os.pwrite(file, text + end, num_bytes)
        Path(temporary).rename(path)
        temporary = ""
        return program
    except (OSError, RuntimeError):
        return None  # the disk is full, or not for us
    finally:
        if file >= 0:
            os.close(file)
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def make_room(folder: Path, num_bytes: int) -> bool:
    """Whether a file of about `num_bytes` may be written, once those that must go are gone."""
    if num_bytes > min(MOST_BYTES, shutil.disk_usage(folder).free * SHARE_OF_FREE):
        return False
    now, total = time.time(), num_bytes
    kept: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        status = path.lstat()
        if path.name.startswith(UNFINISHED) and status.st_mtime < now - UNFINISHED_SECONDS:
            path.unlink()
        elif path.suffix in (SUFFIX, SCREEN_SUFFIX):
            kept.append((status.st_mtime, status.st_size, path))
            total += status.st_size
    for used, size, path in sorted(kept):
        if total > MOST_BYTES or used < now - UNUSED_SECONDS:
            path.unlink()
            total -= size
    return True
