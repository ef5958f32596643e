"""What docs/adding-a-model.md says: a model of known blocks is one file, one row, one golden."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-model.md").read_text("utf-8")
FENCE = re.compile(r"^```py\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_page_shows_the_file_its_rows_and_its_case() -> None:
    file, rows, case = FENCE.findall(PAGE)
    assert file == (ROOT / "src/ridgeline/model/architectures/arcee.py").read_text("utf-8")
    table = (ROOT / "src/ridgeline/model/architectures/__init__.py").read_text("utf-8")
    assert len(rows.splitlines()) == 2
    assert all(f"    {row}\n" in table for row in rows.splitlines())
    assert eval(case, CaseNames()).config["architectures"] == ["ArceeForCausalLM"]


class CaseNames(dict[str, object]):
    """Names of `cases_dense.py`, which stands among the golden tests."""

    def __missing__(self, name: str) -> object:
        import importlib.util
        import sys

        folder = str(ROOT / "tests" / "golden")
        sys.path.insert(0, folder)
        try:
            return getattr(importlib.import_module("cases_dense"), name)
        finally:
            sys.path.remove(folder)


def test_nothing_else_in_the_sources_knows_the_model() -> None:
    known = {
        str(path.relative_to(ROOT / "src" / "ridgeline"))
        for path in (ROOT / "src" / "ridgeline").rglob("*.py")
        if "arcee" in path.read_text("utf-8").lower()
    }
    assert known == {"model/architectures/arcee.py", "model/architectures/__init__.py"}


def test_the_golden_is_in_the_tests_of_all_models() -> None:
    folder = ROOT / "tests" / "golden" / "arcee"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "expected.npz",
        "model.gguf",
        "model.safetensors",
    }
