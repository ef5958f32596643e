"""Every command and every Python block of README.md and docs/**/*.md runs as it is printed.

`make run` and `make test` are what CI itself runs (.ci/run); they are the only lines left out.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ridgeline.config import read_settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
TALK = ROOT / "tests" / "real" / "whisper" / "river.wav"
# CI runs the first two; the emulated library takes minutes to build.
LEFT_OUT = re.compile(r"(RIDGELINE_ISA=\w+ )?make (run|test|test-isa)\b")
FENCE = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for kind, body in FENCE.findall(page.read_text(encoding="utf-8")):
            if kind == language:
                found.append((page.name, body))
    return found


def commands() -> list[tuple[str, str]]:
    """Each once, by the first page that shows it."""
    lines = [
        (page, line.split("  #")[0].strip())
        for page, body in blocks("sh")
        for line in body.splitlines()
        if line.strip() and not line.startswith("#")
    ]
    shown = {line: page for page, line in reversed(lines) if not LEFT_OUT.match(line)}
    return [(page, line) for line, page in reversed(shown.items())]


@pytest.fixture(scope="module")
def environment(
    smollm2_path: Path,
    minilm_path: Path,
    whisper_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """Models are the user's own, packed weights too. What `measure` finds beside other tests is not
    left to the user, nor changed under tests that run meanwhile.
    """
    cache = tmp_path_factory.mktemp("cache")
    users = read_settings().cache_dir
    for name in ("models", "packed"):
        (users / name).mkdir(parents=True, exist_ok=True)
        (cache / name).symlink_to(users / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    more = {"RIDGELINE_CACHE": str(cache), "RIDGELINE_OFFLINE": "1", "NO_COLOR": "1"}
    return {**os.environ, "PATH": path, **more}


def with_free_port(command: str) -> str:
    """A server's command, on a port that nobody else has on this machine."""
    found = re.search(r"--port (\d+)", command)
    if found is None:
        return command
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return re.sub(rf"\b{found[1]}\b", str(free.getsockname()[1]), command)


@pytest.mark.parametrize(("page", "command"), commands())
def test_command(page: str, command: str, environment: dict[str, str], tmp_path: Path) -> None:
    shutil.copyfile(TALK, tmp_path / "talk.wav")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", with_free_port(command)],
        cwd=ROOT if command.startswith(("python", "make")) else tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{page}: {command}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip(), f"{page}: {command} prints nothing"


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_block(page: str, code: str, environment: dict[str, str], tmp_path: Path) -> None:
    shutil.copyfile(TALK, tmp_path / "talk.wav")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{page}:\n{code}\n{done.stderr}"
    assert done.stdout.strip()
