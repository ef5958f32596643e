"""`ridgeline run` on smollm2 as a person meets it: a process, pipes, a terminal, Ctrl-C."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from threads import OTHER

COMMAND = [sys.executable, "-m", "ridgeline.cli.main", "run"]
LONG = "Write a very long story about a dragon and a lighthouse."
GREEDY = ("--temperature", "0")
PATIENCE_SECONDS = 240

# The child takes the terminal on its stdin for its own, so that Ctrl-C typed there reaches it.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("LC_ALL", "LANG", "PYTHONIOENCODING")}
    return kept | {"RIDGELINE_OFFLINE": "1", "LANG": "C.UTF-8", "TERM": "xterm"} | more


def run(
    *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None, code: int = 0
) -> tuple[str, str]:
    """stdout and stderr of a command on pipes."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        env=env or environment(),
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    said = done.stderr.decode()
    assert done.returncode == code, said
    assert "Traceback" not in said
    return done.stdout.decode(), said


# More than a pipe of one page holds: who writes it waits for who reads, however fast it is.
ENDLESS = ("--ignore-eos", "--max-tokens", "6000")


def start(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment(),
        preexec_fn=heed_interrupts,
        pipesize=4096,
    )


def heed_interrupts() -> None:
    """A shell's background job ignores SIGINT, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A conversation on a pseudo-terminal: what was shown, and what is typed."""

    def __init__(self, *arguments: str) -> None:
        try:
            self._mine, theirs = os.openpty()
        except OSError as error:
            pytest.skip(f"this machine gives no pseudo-terminal: {error}")
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *COMMAND, *arguments],
            preexec_fn=heed_interrupts,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(),
        )
        os.close(theirs)
        self._unread = ""

    def until(self, pattern: str, key: str = "") -> str:
        """What is shown up to the end of the first match of `pattern`. key: typed each second
        until something is shown.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := re.search(pattern, self._unread)):
            left = deadline - time.monotonic()
            ready = select.select([self._mine], [], [], max(min(left, 1) if key else left, 0))[0]
            if not ready and key and left > 0:
                self.type(key)
                continue
            assert ready, f"no {pattern!r} in {self._unread!r}"
            try:
                self._unread += os.read(self._mine, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"no {pattern!r} but the end of {self._unread!r}") from None
        shown, self._unread = self._unread[: found.end()], self._unread[found.end() :]
        return shown

    def type(self, text: str) -> None:
        os.write(self._mine, text.encode())

    def close(self) -> int:
        """The exit code. What is shown meanwhile is read: a full terminal would block the child."""
        try:
            while select.select([self._mine], [], [], PATIENCE_SECONDS)[0]:
                self._unread += os.read(self._mine, 65536).decode(errors="replace")
        except OSError:
            pass  # the last holder of the other end is gone
        code = self.process.wait(PATIENCE_SECONDS)
        os.close(self._mine)
        assert "Traceback" not in self._unread
        return code


@pytest.fixture(scope="module", autouse=True)
def smollm2(smollm2_path: Path) -> Path:
    return smollm2_path


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    # A story of so many tokens is more than a terminal holds that nobody reads.
    opened = Terminal("smollm2", *GREEDY, "--max-tokens", "4000")
    yield opened
    if opened.process.poll() is None:
        opened.process.kill()
        opened.process.wait()


def test_an_answer_on_stdout_and_its_figures_on_stderr() -> None:
    answer, said = run("smollm2", "What is the capital of Japan?", *GREEDY)
    assert answer == "The capital of Japan is Tokyo.\n"
    found = re.fullmatch(
        r"(\d+) prompt \+ 8 new tokens \(ended\) · load [\d.]+ m?s · TTFT [\d.]+ m?s · "
        r"prompt [\d,]+ tok/s · decode [\d,]+ tok/s · "
        r"(\d+)% of the memory roof \(([\d.]+) of ([\d.]+) GB/s\)"
        r"( · the machine is in another mode than when measured \([\d.]+ GB/s\))?\n",
        said,
    )
    assert found, said
    share, needed, roof = (float(found[i]) for i in (2, 3, 4))
    assert share == pytest.approx(100 * needed / roof, abs=2)


def test_stdin_is_the_prompt_and_raw_continues_text() -> None:
    prompt = "The capital of France is"
    piped = run("smollm2", "--raw", *GREEDY, "--max-tokens", "6", stdin=f"{prompt}\n".encode())
    assert piped[0].startswith(" Paris")
    assert piped[0] == run("smollm2", "--raw", prompt, *GREEDY, "--max-tokens", "6")[0]
    assert piped[1].startswith("5 prompt + 6 new tokens (cut at max tokens)")


def test_the_reference_says_the_same() -> None:
    arguments = ("smollm2", "--raw", "The capital of France is", *GREEDY, "--max-tokens", "3")
    assert run(*arguments)[0] == run(*arguments, "--backend", "reference")[0]


def test_a_seed_and_a_stop_and_a_system_message() -> None:
    arguments = ("smollm2", LONG, "--seed", "7", "--max-tokens", "30", "--temperature", "1.2")
    answer, said = run(*arguments)
    assert said.endswith("seed 7\n")
    assert run(*arguments, "--threads", str(OTHER))[0] == answer
    word = answer.split()[5]
    stopped, said = run(*arguments, "--stop", "no such words", "--stop", word)
    assert stopped == answer[: answer.index(word)] + "\n"
    assert "(ended)" in said
    _, plain = run("smollm2", "hi", *GREEDY, "--max-tokens", "1")
    _, told = run("smollm2", "hi", *GREEDY, "--max-tokens", "1", "--system", "Be a pirate. " * 20)
    assert int(told.split()[0]) > int(plain.split()[0])


# A peak begins with that of whoever started the process: a small one does, and not pytest.
PEAK = (
    "import os, subprocess, sys\n"
    "child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
    "_, status, usage = os.wait4(child.pid, 0)\n"
    "print(usage.ru_maxrss)\n"
    "sys.exit(os.waitstatus_to_exitcode(status))\n"
)


def test_it_takes_little_more_memory_than_weights_and_cache(smollm2: Path) -> None:
    answer = (*COMMAND, "smollm2", LONG, *GREEDY, "--max-tokens", "128", "--ignore-eos")
    peak = subprocess.run(
        [sys.executable, "-c", PEAK, *answer], env=environment(), capture_output=True, check=True
    ).stdout
    weights, cache = 98_362_432, 13 * 371_000  # blocks of 16 tokens
    screen = 49_152 * 576 // 32 * 22  # a copy of what makes logits, 5 bits and a scale for 32
    table = 170 * 65_536  # of each token's row, what the system maps of the file around it at most
    assert 1024 * int(peak) < weights + screen + cache + table + 150_000_000


def test_text_is_utf8_in_any_locale() -> None:
    arguments = (
        "smollm2",
        "--raw",
        "日本の首都はどこですか? é é é é",
        *GREEDY,
        "--max-tokens",
        "8",
    )
    answer, _ = run(*arguments)
    assert not answer.isascii()
    assert run(*arguments, env=environment(LANG="C", LC_ALL="C"))[0] == answer
    ascii_only, _ = run(*arguments, env=environment(PYTHONIOENCODING="ascii"))
    assert ascii_only == answer.encode("ascii", "replace").decode()


def test_an_answer_is_streamed() -> None:
    # Each write is a message of its own here: none is lost in another, however late it is read.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        process = start(
            "smollm2", LONG, "--max-tokens", "150", "--seed", "1", stdout=theirs.fileno()
        )
        theirs.close()
        pieces = []
        while piece := ours.recv(65536):
            pieces.append(piece)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert len(pieces) > 30


def test_a_reader_that_has_enough_ends_it_without_a_word() -> None:
    process = start("smollm2", LONG, "--seed", "1", *ENDLESS)
    assert process.stdout is not None
    assert len(os.read(process.stdout.fileno(), 5)) > 0
    process.stdout.close()
    assert process.wait(PATIENCE_SECONDS) == -signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_ctrl_c_ends_an_answer_with_its_figures() -> None:
    process = start("smollm2", LONG, "--seed", "1", *ENDLESS)
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 5)
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert (first + rest).endswith(b"\n")
    assert re.fullmatch(
        r"\d+ prompt \+ \d+ new tokens \(interrupted\) · .+ · seed 1\n", said.decode()
    )


def test_a_disk_that_is_full_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "smollm2", "hi", *GREEDY],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == b"error: the answer cannot be written: No space left on device\n"


def test_what_cannot_be_run_is_one_line() -> None:
    for arguments, reason in (
        (("nosuchmodel", "hi"), "no model is called 'nosuchmodel'"),
        (("smollm2", "word " * 9000), "the context holds 8192"),
        (("smollm2", "hi", "--context-length", "99999"), "99999"),
    ):
        answer, said = run(*arguments, code=2)
        assert not answer
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert reason in said


def test_a_conversation_remembers_and_keeps_its_keys_and_values(terminal: Terminal) -> None:
    assert "smollm2 is ready" in terminal.until(r">>> ")
    terminal.type("My name is Ada. Say hello to me by my name.\n")
    first = terminal.until(r"GB/s\)")
    assert "cached" not in first
    ((asked, answered),) = re.findall(r"(\d+) prompt \+ (\d+) new", first)
    terminal.until(r">>> ")
    terminal.type("What is my name?\n")
    ((prompt, cached),) = re.findall(r"(\d+) prompt \((\d+) cached\)", terminal.until(r"GB/s\)"))
    assert int(prompt) > int(asked) + int(answered)
    # Whole blocks are kept, of the answer's too: what is new is a block's rest and the question.
    assert int(cached) > int(asked) + int(answered) - 18
    terminal.until(r">>> ")
    terminal.type("/clear\n")
    terminal.until(r">>> ")
    terminal.type("What is my name?\n")
    (fresh,) = re.findall(r"(\d+) prompt", terminal.until(r"GB/s\)"))
    assert int(fresh) < int(prompt)
    terminal.until(r">>> ")
    terminal.type("/nonsense\n")
    terminal.until(r"there is no /nonsense")
    terminal.until(r">>> ")
    terminal.type("\x04")
    assert terminal.close() == 0


def test_ctrl_c_ends_an_answer_and_not_the_conversation(terminal: Terminal) -> None:
    terminal.until(r">>> ")
    terminal.type(f"{LONG}\n")
    terminal.until(r"story about a dragon and a lighthouse\.\r\n(?:.|\n)*?\w+ \w+ ")
    terminal.type("\x03")
    assert "(interrupted)" in terminal.until(r"GB/s\)")
    terminal.until(r">>> ")
    terminal.type("half a line")
    terminal.until("half a line")
    terminal.type("\x03")
    # A Ctrl-C between readline's echo and its wait shows at the next key only.
    terminal.until(r"Ctrl-D or /exit ends the conversation", key="\x03")
    terminal.until(r">>> ")
    terminal.type("What is the capital of Japan?\n")
    terminal.until(r"new tokens \(ended\)")
    terminal.until(r">>> ")
    terminal.type("word " * 30 + "\n")  # a long line is one line
    terminal.until(r"GB/s\)")
    terminal.until(r">>> ")
    terminal.type("/exit\n")
    assert terminal.close() == 0
