"""Where a command's output goes: folders that are not there, readers that go away, interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ridgeline.cli.main import main
from ridgeline.errors import RidgelineError
from ridgeline.output_files import check_outputs, write_output

SMALL = ["simulate", "llama-3.1-8b", "--on", "h100", "--requests", "20", "--rate", "5"]
RIDGELINE = [sys.executable, "-m", "ridgeline.cli.main"]


@pytest.mark.parametrize(
    "line",
    [
        ["plan", "no-such-model", "--html"],
        ["plan", "no-such-model", "--hardware", "this", "--html"],
        ["fit", "nowhere.json", "--model", "no-such-model", "--gpu", "h100", "--out"],
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: list[str]
) -> None:
    """The model is not there: the work would end with that."""
    for target, why in ((tmp_path / "no" / "x", "no such folder"), (tmp_path, "it is a folder")):
        assert main([*line, str(target)]) == 2
        error = capsys.readouterr().err
        assert f"{line[-1]}: {target} cannot be written" in error
        assert why in error


def test_a_file_is_whole_or_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = tmp_path / "page.html", tmp_path / "link.html"
    path.write_text("before")
    path.chmod(0o640)
    link.symlink_to(path)
    write_output(link, "äfter")
    assert link.is_symlink()
    assert path.read_text(encoding="utf-8") == "äfter"
    assert path.stat().st_mode & 0o777 == 0o640
    write = Path.write_bytes

    def interrupted(self: Path, data: bytes) -> int:
        write(self, data[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_output(path, "something else")
    assert path.read_text(encoding="utf-8") == "äfter"
    assert sorted(tmp_path.iterdir()) == [link, path]


def test_devices_are_written_to(tmp_path: Path) -> None:
    write_output(Path(os.devnull), "x")
    assert not Path(os.devnull).is_file()
    with pytest.raises(RidgelineError, match="No space left"):
        write_output(Path("/dev/full"), "x")
    check_outputs({"--html": tmp_path / "new.html", "--png": None})


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_reader_that_has_gone_is_no_fault(more: list[str]) -> None:
    """In a script with pipefail, 1 was a fault of ours."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        done = subprocess.run([*RIDGELINE, *SMALL, *more], stdout=gone, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--replicas", "1000000000"], "--replicas: 1000000000; 16,384 at most"),
        (["--disaggregate", "1000000000:1"], "at most"),
        (["--autoscale", "1:1000000000"], "at most"),
        (["--rate", "1e-300"], "--rate: the load would take 2e+301 s"),
        (["--block", "0"], "--block: 0"),
        (["--tp", "0"], "--tp: 0 ranks do not part the 32 heads"),
        (["--dp", "0"], "a mesh of tp 1, pp 1, dp 0, ep 1: each has 1 or more"),
        (["--max-waiting", "-1"], "--max-waiting: -1"),
        (["--timeout", "0s"], "--timeout: 0 s"),
        (["--link-gbs", "5"], "--link-gbs: is between"),
    ],
)
def test_what_no_fleet_can_be_is_told_in_a_line(
    more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, *more]) == 2
    told = capsys.readouterr()
    assert words in told.err
    assert told.err.count("\n") == 1
    assert not told.out
