"""Every option, argument and environment setting has a row that says what it does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
import typer

from ridgeline import config
from ridgeline.assemble import Options
from ridgeline.cli.flag_pages import HERE, flag_named
from ridgeline.cli.flags import FLAGS
from ridgeline.cli.main import COMMANDS, GROUPS, build_app, main
from ridgeline.errors import RidgelineError
from ridgeline.llm import LLM

# Commands whose every option is a setting of how a model is run or measured.
PUBLIC = ("run", "serve", "transcribe", "bench latency")


def options() -> Iterator[str]:
    app = typer.main.get_command(build_app())
    for path in PUBLIC:
        first, *rest = path.split()
        if first not in COMMANDS and first not in GROUPS:
            continue
        command = app.commands[first]  # type: ignore[attr-defined]
        for word in rest:
            command = command.commands[word]
        for parameter in command.params:
            if parameter.name != "help":
                long = [o for o in parameter.opts if o.startswith("--")]
                yield (long[0] if long else str(parameter.name)).lstrip("-").replace("_", "-")


def arguments() -> Iterator[str]:
    for name in signature(LLM.__init__).parameters:
        if name not in ("self", "options"):
            yield name
    for each in fields(Options):
        yield each.name.replace("_", "-")


def environment() -> Iterator[str]:
    yield from re.findall(r"`(RIDGELINE_\w+)`", config.__doc__ or "")


def test_every_setting_has_a_row() -> None:
    wanted = {*options(), *arguments(), *environment()}
    assert len(wanted) > 50
    lacking = sorted(name for name in wanted if name not in FLAGS)
    assert not lacking, f"say in src/ridgeline/cli/flags.py what these do: {lacking}"


def test_rows_are_whole() -> None:
    for name, flag in FLAGS.items():
        assert flag.does.endswith("."), name
        assert flag.here == "" or flag.here in HERE, name
    assert {flag.here for flag in FLAGS.values() if flag.here} == set(HERE)


def test_names_are_found_however_they_are_written() -> None:
    assert flag_named("--kv-format") == flag_named("kv_format") == flag_named("KV-Format")
    assert flag_named("ridgeline_threads") == "RIDGELINE_THREADS"
    with pytest.raises(RidgelineError, match="nearest: kv-format"):
        flag_named("kv-fromat")
    with pytest.raises(RidgelineError, match="has all"):
        flag_named("\x1b[2J" * 40)


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_each_is_explained_on_an_unknown_machine(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--cache-dir", str(tmp_path), "explain", "flag", name]) == 0
    said = capsys.readouterr().out
    assert FLAGS[name].does in said
    assert "here: " in said


def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cache-dir", str(tmp_path), "explain", "flag", "threads", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["flag"] == "threads"
    assert found["here"]
    assert main(["--cache-dir", str(tmp_path), "explain", "flag", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(FLAGS)
    assert main(["--cache-dir", str(tmp_path), "explain", "flag"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(FLAGS)
