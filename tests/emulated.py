"""A pytest plugin (`-p emulated`, see `make test-isa`): kernels whose AVX-512 and AMX are emulated.

The tests of this process then find all instruction sets; processes that they start do not.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import ridgeline.backends.cpu

NAME = "ridgeline.backends.cpu._native"
BUILD = Path(__file__).parents[1] / "build" / "emulated"

(path,) = BUILD.glob("_native.*.so")
spec = importlib.util.spec_from_file_location(NAME, path)
assert spec is not None
assert spec.loader is not None
sys.modules[NAME] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[NAME])
ridgeline.backends.cpu._native = sys.modules[NAME]
