"""What a head's screen has learned, kept on disk: a model that ran once screens its first token.

A file is known by what packed weights are known by (`packed_weights.key_of`), is this user's, and
is believed only if its checksum is right; what is not believed is learned anew. Does not know what
was learned, or how.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ridgeline.backends.cpu import _native
from ridgeline.backends.cpu.packed_weights import SCREEN_SUFFIX, UNFINISHED, key_of, make_room
from ridgeline.backends.cpu.weights import Weights
from ridgeline.model.graph.node import Graph, Weight
from ridgeline.model.graph.ops.linear import Linear
from ridgeline.units import MIB

MAGIC = b"RIDGESCR"
DIGEST_BYTES = hashlib.sha256().digest_size
# More than any screen learns: 12 bytes a token of the vocabulary.
MOST_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Screened:
    """The weight of a graph that has a screen, and rows of logits of a step that it screens."""

    weight: Weight
    rows: int


def screened_weight(graph: Graph) -> Screened | None:
    for node in graph.nodes:
        if isinstance(node.op, Linear) and node.op.screen:
            return Screened(node.weights[0], node.op.screened_rows(node.weights))
    return None


class LearnedScreen:
    """Owns the file. folder, source: as `packed_weights.load` has them."""

    def __init__(
        self,
        graph: Graph,
        program: _native.Program,
        weights: Weights,
        isa: str,
        folder: Path | None,
        source: object,
    ) -> None:
        self._program = program
        self._weights = weights
        self._screened = screened_weight(graph)
        self._learns = self._screened is not None
        self._path: Path | None = None
        if self._screened is None or folder is None or source is None:
            return
        self._key = key_of(graph, source, isa)
        self._path = folder / (self._key + SCREEN_SUFFIX)
        kept = read(self._path, self._key)
        if kept is not None and program.learn(kept):
            weights.release(self._screened.weight)
            self._learns = False

    def learns_from(self, rows: int) -> bool:
        """Whether it still learns what is usual of logits, from steps of so many rows."""
        return self._learns and self._screened is not None and rows <= self._screened.rows

    def after_step(self) -> None:
        """What was learned anew, of texts unlike those before, takes the place of what is kept."""
        if self._screened is None:
            return
        done = self._program.has_learned
        if (self._learns and done) or self._program.is_learning:
            self._weights.release(self._screened.weight)
        if self._learns and done and self._path is not None:
            write(self._path, self._key, self._program.learned())
        self._learns = not done


def read(path: Path, key: str) -> bytes | None:
    """What is kept at `path`; None if that is nothing that can be believed."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(file)
        is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        if not is_ours or status.st_size > MOST_BYTES:
            return None
        with open(file, "rb", closefd=False) as opened:
            found = opened.read(MOST_BYTES)
        os.utime(file)  # the oldest go first
    except OSError:
        return None
    finally:
        os.close(file)
    head = len(MAGIC) + DIGEST_BYTES
    learned = found[head:]
    return learned if found[:head] == MAGIC + _digest(key, learned) else None


def write(path: Path, key: str, learned: bytes) -> None:
    """Keeps it, where the disk has room."""
    temporary = ""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not make_room(path.parent, len(learned)):
            return
        file, temporary = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent)
        with open(file, "wb") as opened:
            opened.write(MAGIC + _digest(key, learned) + learned)
        Path(temporary).rename(path)
        temporary = ""
    except OSError:
        return
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def _digest(key: str, learned: bytes) -> bytes:
    return hashlib.sha256(key.encode() + learned).digest()
