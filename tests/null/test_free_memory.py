"""How much memory is left, by files as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ridgeline.cost.free_memory import available_bytes

MIB = 1024 * 1024


def system(root: Path, **group: str) -> Path:
    """1,000 MiB available on the machine; group: files of the control group."""
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(
        f"MemTotal:  {4000 * 1024} kB\nMemAvailable:  {1000 * 1024} kB\nHugePages_Total:  0\n"
    )
    (root / "sys/fs/cgroup").mkdir(parents=True)
    for name, content in group.items():
        (root / "sys/fs/cgroup" / f"memory.{name}").write_text(content)
    return root


def test_this_machine_has_some() -> None:
    assert available_bytes() > 0


@pytest.mark.parametrize(
    ("group", "mebibytes"),
    [
        ({}, 1000),
        ({"max": "max\n", "current": f"{900 * MIB}\n"}, 1000),
        ({"max": f"{8000 * MIB}\n", "current": f"{100 * MIB}\n"}, 1000),
        ({"max": f"{600 * MIB}\n", "current": f"{400 * MIB}\n"}, 200),
        ({"max": f"{600 * MIB}\n", "current": f"{700 * MIB}\n"}, 0),
        ({"max": "what\n", "current": "1\n"}, 1000),
        ({"max": f"{600 * MIB}\n", "current": f"{400 * MIB}\n", "stat": "no number\n"}, 200),
        ({"max": f"{600 * MIB}\n", "current": f"{400 * MIB}\n", "stat": f"file {MIB}\n"}, 200),
    ],
)
def test_the_machine_or_the_group_bounds_it(
    tmp_path: Path, group: dict[str, str], mebibytes: int
) -> None:
    assert available_bytes(system(tmp_path, **group)) == mebibytes * MIB


def test_file_pages_that_can_go_are_free(tmp_path: Path) -> None:
    stat = {
        "anon": 100,
        "file": 320,
        "active_file": 200,
        "inactive_file": 100,  # the other 20 are shared memory, which stays
        "shmem": 20,
        "file_dirty": 30,
        "file_writeback": 10,
        "slab_reclaimable": 5,
    }
    lines = "".join(f"{name} {size * MIB}\n" for name, size in stat.items())
    root = system(tmp_path, max=f"{600 * MIB}\n", current=f"{450 * MIB}\n", stat=lines)
    assert available_bytes(root) == (600 - 450 + 200 + 100 - 30 - 10 + 5) * MIB


def test_no_more_than_was_used_comes_back(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        max=f"{600 * MIB}\n",
        current=f"{450 * MIB}\n",
        stat=f"inactive_file {5000 * MIB}\n",
    )
    assert available_bytes(root) == 600 * MIB
