"""Breaks small model files in a seeded way and opens them: nothing but a ModelError may come out.

    python tests/fuzz/fuzz_files.py --count 1000000 --seed 1 --corpus tests/fuzz/corpus

What opens is read to the last tensor and string. A finding is any other exception (warnings are
errors), a message that does not name the file or is not one line, more processor time or Python
memory than its kind may cost (memory is traced for one file in sixteen), or a process that has
grown. The files of a finding are kept in the corpus folder, which `test_corpus.py` opens
again.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from types import FrameType

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "null"))
sys.path.insert(0, str(Path(__file__).parent))

from mutate import mutated_bytes, mutated_json, mutated_pieces
from small_files import (
    ARRAY,
    F32,
    I32,
    STRING,
    U16,
    U32,
    Piece,
    Tensor,
    gguf_pieces,
    joined,
    safetensors_bytes,
    sample_gguf,
    sample_safetensors,
)
from whole_models import (
    broken_config,
    broken_model,
    broken_tokenizer,
    read_config,
    read_model,
    read_tokenizer,
)

from ridgeline.errors import ModelError
from ridgeline.model.architectures import ARCHITECTURES
from ridgeline.model.formats import FORMATS, quantize
from ridgeline.model.weights.checkpoint import open_checkpoint
from ridgeline.model.weights.gguf_metadata import StringArray

# Of each `TRACE_PERIOD` files the first `TRACED` are traced: each start of tracemalloc costs
# memory for good, so that one for each file would look like a leak of the readers.
TRACE_PERIOD, TRACED = 4096, 256
HANG_SECONDS = 20
GROWTH_LIMIT_BYTES = 128 << 20
ADDRESS_LIMIT_BYTES = 8 << 30
MESSAGE_LIMIT = 1500

PARTS = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
INDEX = "model.safetensors.index.json"
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    "eos_token_id": [1, 2],
    "tie_word_embeddings": True,
}

Files = dict[str, bytes]


@dataclass
class Report:
    """What was tried and what came of it."""

    tried: int = 0
    opened: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_seconds: float = 0.0
    grown_bytes: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    findings: dict[str, str] = field(default_factory=dict)


def model_gguf() -> list[Piece]:
    """A file like a model's: tokenizer arrays and a row of every format."""
    words = tuple(f"token{i}" for i in range(40))
    metadata: list[tuple[str, int, object]] = [
        ("general.architecture", STRING, "llama"),
        ("llama.block_count", U32, 1),
        ("llama.rope.freq_base", F32, 10000.0),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, words)),
        ("tokenizer.ggml.token_type", ARRAY, (I32, (1,) * 40)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, ("a b", "c d"))),
    ]
    row = np.linspace(-1, 1, 256, dtype=np.float32)
    tensors = [
        Tensor(f"blk.0.{name}", (256,), each.gguf_type, quantize(row, name).tobytes())
        for name, each in FORMATS.items()
        if each.gguf_type is not None
    ]
    return gguf_pieces(metadata, tensors)


def part_gguf(number: int) -> list[Piece]:
    metadata: list[tuple[str, int, object]] = [
        ("split.no", U16, number),
        ("split.count", U16, 2),
        ("split.tensors.count", I32, 2),
    ]
    return gguf_pieces(metadata, [Tensor(f"t{number}", (2,), 0, bytes(8))])


SEEDS = [sample_gguf(), model_gguf(), gguf_pieces([], [Tensor("a", (2,), 0, bytes(8))])]
SEED_PARTS = [part_gguf(0), part_gguf(1)]
HEADER, DATA = sample_safetensors()


def broken_gguf(rng: Random) -> tuple[Files, str]:
    pieces = rng.choice(SEEDS)
    data = mutated_bytes(joined(pieces), rng) if rng.random() < 0.3 else mutated_pieces(pieces, rng)
    return {"m.gguf": data}, "m.gguf"


def broken_split(rng: Random) -> tuple[Files, str]:
    files = {name: joined(part) for name, part in zip(PARTS, SEED_PARTS, strict=True)}
    at = rng.randrange(2)
    files[PARTS[at]] = mutated_pieces(SEED_PARTS[at], rng)
    return files, rng.choice(PARTS)


def broken_tensors(rng: Random) -> bytes:
    """A safetensors file with its header changed by value, or any of its bytes."""
    if rng.random() < 0.2:
        return mutated_bytes(safetensors_bytes(HEADER, DATA), rng)
    data = mutated_bytes(DATA, rng) if rng.random() < 0.1 else DATA
    whole = safetensors_bytes(mutated_json(HEADER, rng), data)
    return mutated_bytes(whole[:8], rng) + whole[8:] if rng.random() < 0.1 else whole


def broken_safetensors(rng: Random) -> tuple[Files, str]:
    return {"m.safetensors": broken_tensors(rng)}, "m.safetensors"


def broken_directory(rng: Random) -> tuple[Files, str]:
    """A sharded Hugging Face directory with one of its files broken."""
    index = {"weight_map": dict.fromkeys(("vector", "matrix", "scalar"), "a.safetensors")}
    index["weight_map"]["other"] = "b.safetensors"
    other = {"other": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}
    files = {
        "config.json": json.dumps(CONFIG).encode(),
        INDEX: json.dumps(index).encode(),
        "a.safetensors": safetensors_bytes(HEADER, DATA),
        "b.safetensors": safetensors_bytes(other, bytes(4)),
    }
    match rng.randrange(4):
        case 0:
            files["config.json"] = mutated_json(CONFIG, rng)
        case 1:
            files["a.safetensors"] = broken_tensors(rng)
        case _:
            files[INDEX] = mutated_json(index, rng)
    return files, "."


@dataclass(frozen=True)
class Kind:
    """How often, how it is made, how it is read, whether messages must name the file, and what it
    may cost: seconds of processor time, and Python memory beyond 32 times the file.
    """

    weight: int
    make: Callable[[Random], tuple[Files, str]]
    read: Callable[[Path], None]
    names_file: bool = True
    seconds: float = 1.0
    spare_bytes: int = 1 << 20


def read_all(path: Path) -> None:
    """Opens it and reads all there is; a ModelError for one tensor is no reason to stop."""
    with open_checkpoint(path) as checkpoint:
        for value in checkpoint.metadata.values():
            if isinstance(value, StringArray):
                refusable(value.tolist, path)
            elif isinstance(value, np.ndarray):
                value.tolist()
        for name, info in checkpoint.tensors.items():
            assert checkpoint.raw(name).ndim == 1
            if refusable(partial(checkpoint.read, name), path) and info.format in FORMATS:
                assert checkpoint.read(name).shape == info.shape


def refusable(read: Callable[[], object], path: Path) -> bool:
    try:
        read()
    except ModelError as error:
        check_message(error, path)
        return False
    return True


def check_message(error: ModelError, path: Path | None) -> None:
    """One line, not endless, and about the file."""
    text = str(error)
    named = path is None or str(path) in text
    listed = len(", ".join(ARCHITECTURES)) if "supported: LlamaForCausalLM" in text else 0
    if not named or "\n" in text or len(text) > MESSAGE_LIMIT + listed:
        raise AssertionError(f"a poor message: {text[:300]!r}") from error


FILES: dict[str, Kind] = {
    "gguf": Kind(60, broken_gguf, read_all),
    "split-gguf": Kind(8, broken_split, read_all),
    "safetensors": Kind(20, broken_safetensors, read_all),
    "directory": Kind(12, broken_directory, read_all),
}

# Slower by far, so that `--models` runs them by themselves. The tokenizer's metadata has no path.
# A configuration of a few bytes may ask for a graph of a thousand layers, and gets it.
MODELS: dict[str, Kind] = {
    "model": Kind(5, broken_model, read_model, False, 10.0, 64 << 20),
    "config": Kind(4, broken_config, read_config, True, 10.0, 64 << 20),
    "tokenizer": Kind(1, broken_tokenizer, read_tokenizer, True, 10.0, 64 << 20),
}


def try_files(files: Mapping[str, bytes], entry: str, folder: Path, kind: Kind) -> bool:
    """Whether it opened. Waste, and anything but a good ModelError, comes out as an exception."""
    for name, data in files.items():
        # A new file each time: one that a stray view still maps must not shrink under it.
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(data)
    path = folder / entry
    before = tracemalloc.get_traced_memory()[0]
    if tracemalloc.is_tracing():
        tracemalloc.reset_peak()
    start = time.process_time()
    try:
        with deadline():
            kind.read(path)
        opened = True
    except ModelError as error:
        check_message(error, folder if kind.names_file else None)
        opened = False
    peak = tracemalloc.get_traced_memory()[1] - before
    seconds = time.process_time() - start
    size = sum(map(len, files.values()))
    if seconds > kind.seconds:
        raise AssertionError(f"{seconds:.1f} s for {size} bytes")
    if peak > kind.spare_bytes + 32 * size:
        raise AssertionError(f"{peak} bytes of Python memory for a file of {size}")
    return opened


@contextmanager
def deadline() -> Iterator[None]:
    """Turns a hang into an exception."""

    def hang(_signal: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"no end after {HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def resident_bytes() -> int:
    """The process's highest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def keep(name: str, files: Mapping[str, bytes], corpus: Path | None) -> str:
    """Puts a finding's files into a folder of the corpus that begins with its kind; its name."""
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:12]
    folder = f"{name}-{digest}"
    if corpus is not None:
        (corpus / folder).mkdir(parents=True, exist_ok=True)
        for file_name, data in files.items():
            (corpus / folder / file_name).write_bytes(data)
    return folder


def fuzz(
    kinds: Mapping[str, Kind], count: int, seed: int, folder: Path, corpus: Path | None
) -> Report:
    """Tries `count` broken files of these kinds; the report lists one finding for each place that
    failed.
    """
    report = Report()
    rng = Random(seed)
    weights = [kind.weight for kind in kinds.values()]
    start, resident = time.monotonic(), 0
    for name in kinds:
        (folder / name).mkdir()
    for i in range(count):
        if i == min(2000, count // 2):
            resident = resident_bytes()
        if i % TRACE_PERIOD == 0:
            tracemalloc.start()
        elif i % TRACE_PERIOD == TRACED:
            tracemalloc.stop()
        name = rng.choices(list(kinds), weights)[0]
        files, entry = kinds[name].make(rng)
        report.by_kind[name] += 1
        began = time.process_time()
        try:
            opened = try_files(files, entry, folder / name, kinds[name])
            report.opened += opened
            report.refused += not opened
            report.grown_bytes = resident_bytes() - resident if resident else 0
            if report.grown_bytes > GROWTH_LIMIT_BYTES:
                resident = resident_bytes()
                raise AssertionError(f"the process has grown by {report.grown_bytes} bytes")
        except BaseException as error:  # a panic of Rust code is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
            if where not in report.findings:
                kept = keep(name, files, corpus)
                report.findings[where] = f"{kept} (file {i}): {error}"
                traceback.print_exc()
        report.slowest_seconds = max(report.slowest_seconds, time.process_time() - began)
        report.tried += 1
    tracemalloc.stop()
    report.seconds = time.monotonic() - start
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", action="store_true", help="whole models instead of files")
    parser.add_argument("--corpus", type=Path, help="folder that keeps the files of findings")
    parser.add_argument("--folder", type=Path, help="where to write; memory-backed is fastest")
    arguments = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_LIMIT_BYTES, ADDRESS_LIMIT_BYTES))
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        kinds = MODELS if arguments.models else FILES
        report = fuzz(kinds, arguments.count, arguments.seed, folder, arguments.corpus)
    finally:
        shutil.rmtree(folder)
    print(f"{report.tried} files tried in {report.seconds:.0f} s: {dict(report.by_kind)}")
    print(f"{report.refused} refused, {report.opened} opened and read")
    print(f"slowest {report.slowest_seconds:.3f} s of processor time")
    print(f"resident memory grew by {report.grown_bytes} bytes")
    for where, what in report.findings.items():
        print(f"FINDING {where}: {what}")
    sys.exit(bool(report.findings))


if __name__ == "__main__":
    main()
