"""The stub of the native module names what the module has, and nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import ridgeline
from ridgeline.backends.cpu import _native

STUB = Path(ridgeline.__file__).parent / "backends" / "cpu" / "_native.pyi"


def members(of: object) -> set[str]:
    return {name for name in vars(of) if not name.startswith("_")}


def test_the_stub_is_the_module() -> None:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    stubbed = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    assert set(stubbed) == members(_native)
    for name, node in stubbed.items():
        if isinstance(node, ast.ClassDef):
            methods = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
            assert methods - {"__init__"} == members(getattr(_native, name)), name
