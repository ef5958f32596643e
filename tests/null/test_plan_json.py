"""docs/plan_json.md and what `ridgeline plan --json` says: the same fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ridgeline.cli.main import main

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "plan_json.md").read_text(encoding="utf-8")
GGUF = str(TESTS / "golden" / "llama3" / "model.gguf")
SEEN = re.compile(r"simulated\.\w+")


def documented(section: str) -> set[str]:
    text = PAGE[PAGE.index(f"## {section}") :].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def paths(told: Any, where: str = "") -> Iterator[str]:
    if isinstance(told, dict):
        for name, value in told.items():
            yield from paths(value, f"{where}.{name}" if where else name)
    elif isinstance(told, list):
        for value in told:
            yield from paths(value, f"{where}[]")
        if not told:
            yield f"{where}[]"
    else:
        yield where


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert isinstance(told, dict)
    return told


def test_of_accelerators(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "llama-3.1-8b", "--gpu", "h100", "--count", "2", "--input", "1000"]
    words += ["--output", "200", "--rate", "4", "--slo", "ttft=1s,itl=50ms"]
    words += ["--precision", "fp8", "--json"]
    told = said(words, capsys)
    (model,) = told.pop("models").values()
    found = {f"models.*.{name}" for name in ("ranked[]", "front[]", "breaks.*")}
    choices = [*model.pop("ranked"), *model.pop("front")]
    assert model.pop("breaks")
    found |= {f"models.*.{name}" for name in model} | set(told)
    for choice in choices:
        found |= set(paths(choice))
    assert found == documented("Of accelerators")


def test_of_this_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--cache-dir", str(tmp_path), "plan", GGUF, "--hardware", "this", "--input", "20"]
    words += ["--output", "10", "--rate", "0.2", "--precision", "stored", "--kv", "bf16", "--json"]
    told = said(words, capsys)
    ways = [*told.pop("ranked"), *told.pop("lost")]
    assert ways
    found = {"ranked[]", "lost[]"} | {n.split("[]")[0] + "[]" * ("[]" in n) for n in paths(told)}
    for way in ways:
        found |= {"simulated" if SEEN.match(name) else name for name in paths(way)}
    assert found == documented("Of this machine")
