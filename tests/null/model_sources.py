"""What the tests of sources are fed: wheels made here, and settings."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

from ridgeline.config import Settings, read_settings

GGUF = b"GGUF" + bytes(range(256)) * 300


def settings_for(cache_dir: Path, offline: bool = False) -> Settings:
    return replace(read_settings({}), cache_dir=cache_dir, offline=offline)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(
    folder: Path,
    name: str,
    members: dict[str, bytes],
    version: str = "1.0",
    record: dict[str, str] | None = None,
) -> Path:
    """A wheel that pip accepts; `record` overrides sums that its RECORD claims (hexadecimal)."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    members = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    sums = {member: sha256(data) for member, data in members.items()} | (record or {})
    lines = [
        f"{member},sha256={base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip('=')},"
        for member, digest in sums.items()
    ]
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member, data in members.items():
            wheel.writestr(member, data)
        wheel.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,"]))
    return path
