"""The generated parts of the docs are what the code says; the settings table is the config's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_generated_pages_are_true() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}; run python docs/generate.py"


def test_the_settings_table_is_complete() -> None:
    variable = re.compile(r"RIDGELINE_[A-Z]+")
    read = set(variable.findall((ROOT / "src/ridgeline/config.py").read_text(encoding="utf-8")))
    shown = set(variable.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    assert shown == read
