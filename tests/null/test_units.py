"""Sizes as people write and read them."""

from __future__ import annotations

import pytest

from ridgeline.units import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("1000000", 1_000_000),
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        ("1.5 GiB", 1_610_612_736),
        ("0.5kb", 500),
        ("7B", 7),
        ("0", 0),
    ],
)
def test_sizes_are_read(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "MB", "-1", "1e9", "1.5.2GB", "5 zb", "٣MB", "9" * 30, "nan"])
def test_what_is_no_size_is_none(text: str) -> None:
    assert parse_bytes(text) is None


def test_what_is_shown_can_be_read() -> None:
    assert parse_bytes(format_bytes(1_230_000)) == 1_230_000
