"""The heat map of experts, in characters and as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ridgeline.bench.expert_map import as_text, draw, layer_of

COUNTS = {
    "layers.0.moe.experts": np.array([0, 1, 5, 10]),
    "layers.12.moe.experts": np.array([0, 0, 0, 0]),
}


def test_a_line_a_layer_and_the_darkest_is_the_busiest() -> None:
    first, second = as_text(COUNTS).splitlines()
    assert first.split("|")[1] == " .+@"
    assert first.split()[:3] == ["0", "16", "1"]
    assert second.split("|")[1] == "    "
    assert second.split()[:3] == ["12", "0", "4"]


def test_many_experts_share_columns() -> None:
    (line,) = as_text({"layers.1.moe.experts": np.array([1, 0, 0, 0, 3])}, columns=3).splitlines()
    assert line.split("|")[1] == "- @"
    assert "3 idle" in line


def test_names() -> None:
    assert layer_of("layers.3.moe.experts") == "3"
    assert layer_of("experts") == "experts"


def test_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(COUNTS, tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
