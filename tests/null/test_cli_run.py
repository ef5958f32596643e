"""`ridgeline run` on a tiny model: its flags, its refusals, and what goes to which stream."""

from __future__ import annotations

import io
import json
import re
import signal
import sys
from pathlib import Path

import pytest

from ridgeline.assemble import Assembled
from ridgeline.cli.main import main
from ridgeline.cli.run import _process_age_seconds
from ridgeline.cli.spinner import show_spinner
from seeing import TOKENS, picture, seeing_model

MODEL = str(Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf")
GREEDY = ("--temperature", "0", "--max-tokens", "8")
Output = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def pipe_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def refusal(output: Output, *arguments: str) -> str:
    """The one line that a command ends with, and nothing on stdout."""
    assert main(["run", *arguments]) == 2
    said = output.readouterr()
    assert not said.out
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    ("flag", "value", "reason"),
    [
        ("--temperature", "-1", "from 0 up to 100"),
        ("--temperature", "nan", "from 0 up to 100"),
        ("--top-p", "0", "above 0 up to 1"),
        ("--top-k", "-5", "from -1"),
        ("--min-p", "1.5", "from 0 up to 1"),
        ("--repetition-penalty", "0", "above 0"),
        ("--frequency-penalty", "inf", "from -100 up to 100"),
        ("--presence-penalty", "-101", "from -100 up to 100"),
        ("--dry-multiplier", "-1", "from 0 up to 100"),
        ("--no-repeat-ngram-size", "-1", "from 0"),
        ("--bad-words", "", "empty"),
        ("--dynatemp-range", "-1", "from 0 up to 100"),
        ("--typical-p", "0", "above 0 up to 1"),
        ("--top-n-sigma", "-1", "from 0"),
        ("--xtc-probability", "2", "from 0 up to 1"),
        ("--xtc-threshold", "2", "from 0 up to 1"),
        ("--mirostat", "1", "0 (off) or 2"),
        ("--mirostat-tau", "0", "above 0"),
        ("--mirostat-eta", "-1", "from 0"),
        ("--min-tokens", "-1", "from 0"),
        ("--stop-regex", "(", "nothing closes"),
        ("--max-tokens", "0", "from 1"),
        ("--seed", "-1", "from 0"),
        ("--stop", "", "at least one character"),
        ("--threads", "0", "positive"),
        ("--context-length", "0", "positive"),
        ("--backend", "abacus", "cpu, reference"),
    ],
)
def test_a_wrong_flag_is_named_as_it_was_typed(
    flag: str, value: str, reason: str, capsys: Output
) -> None:
    line = refusal(capsys, MODEL, "hi", "--raw", flag, value)
    assert line.startswith(f"error: {flag}: ")
    assert reason in line


def test_flags_that_contradict_each_other_are_named(capsys: Output) -> None:
    assert "--min-tokens: 9 is above" in refusal(
        capsys, MODEL, "hi", "--raw", "--max-tokens", "8", "--min-tokens", "9"
    )
    assert "--mirostat: cuts by itself; leave top_k" in refusal(
        capsys, MODEL, "hi", "--raw", "--mirostat", "2", "--top-k", "4"
    )


def said_by(capsys: Output, *flags: str) -> str:
    assert (
        main(["run", MODEL, "hello there", "--raw", "--seed", "4", "--max-tokens", "12", *flags])
        == 0
    )
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        ("--mirostat", "2", "--mirostat-tau", "1.5", "--mirostat-eta", "0.5"),
        ("--xtc-probability", "1", "--xtc-threshold", "0.001"),
        ("--dynatemp-range", "0.7"),
        ("--typical-p", "0.3"),
        ("--top-n-sigma", "0.5"),
        ("--frequency-penalty", "20"),
        ("--presence-penalty", "20"),
        ("--dry-multiplier", "20"),
        ("--no-repeat-ngram-size", "1"),
        ("--ignore-eos", "--min-tokens", "12", "--stop-regex", "(?s)."),
        ("--stop-regex", "[!-~]"),
    ],
    ids=lambda flags: flags[0],
)
def test_each_sampler_can_be_asked_for(flags: tuple[str, ...], capsys: Output) -> None:
    """A flag that is taken says the same twice, and most say something else than none does."""
    first = said_by(capsys, *flags)
    assert said_by(capsys, *flags) == first
    if flags[0] in ("--mirostat", "--xtc-probability", "--typical-p", "--stop-regex"):
        assert said_by(capsys) != first


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((MODEL, "hi", "--max-tokens", "many"), "'--max-tokens'"),
        ((MODEL, "hi", "--nonsense"), "--nonsense"),
        ((MODEL, "hi", "there"), "there"),
        ((), "model"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line_too(
    arguments: tuple[str, ...], reason: str, capsys: Output
) -> None:
    line = refusal(capsys, *arguments)
    assert reason in line
    assert "see ridgeline run --help" in line


def test_a_model_without_a_template_says_what_to_do(capsys: Output) -> None:
    assert "use --raw" in refusal(capsys, MODEL, "hi")


def test_refusals_of_prompts(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "has 10" in refusal(capsys, MODEL, "--raw", "x" * 10_000)
    assert "drop one" in refusal(capsys, MODEL, "hi", "--raw", "--system", "be brief")
    assert "the prompt is empty" in refusal(capsys, MODEL, " ")
    assert "prompt: is not UTF-8 text (at character 1)" in refusal(capsys, MODEL, "a\udcff")
    assert "--stop: is not UTF-8" in refusal(capsys, MODEL, "a", "--stop", "\udcff")
    pipe_in(monkeypatch, b" \n")
    assert "stdin is empty" in refusal(capsys, MODEL, "--raw")
    pipe_in(monkeypatch, b"ab\xff")
    assert "stdin is not UTF-8 text (at byte 2)" in refusal(capsys, MODEL, "--raw")
    assert "no model is called" in refusal(capsys, "nosuchmodel", "hi")


def test_stdin_is_the_prompt_but_for_its_last_line_break(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["run", MODEL, "--raw", "Hello\nthere", *GREEDY]) == 0
    given = capsys.readouterr().out
    for ending in (b"", b"\n", b"\r\n"):
        pipe_in(monkeypatch, b"Hello\nthere" + ending)
        assert main(["run", MODEL, "--raw", *GREEDY]) == 0
        assert capsys.readouterr().out == given


def test_the_closing_line(capsys: Output) -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGPIPE)]
    assert main(["run", MODEL, "--raw", "Hello there", *GREEDY]) == 0
    line = capsys.readouterr().err
    assert re.fullmatch(
        r"\d+ prompt \+ 8 new tokens \(cut at max tokens\) · load [\d.,]+ m?s · TTFT [\d.]+ m?s · "
        r"prompt [\d,]+ tok/s · decode [\d,]+ tok/s · "
        r"\d+% of the memory roof \([\d.]+ of [\d.]+ GB/s\)"
        r"( · the machine is in another mode than when measured \([\d.]+ GB/s\))?\n",
        line,
    )
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGPIPE)] == before


def test_a_drawn_seed_is_told_and_gives_the_same_answer(capsys: Output) -> None:
    assert main(["run", MODEL, "--raw", "Hello there", "--max-tokens", "8"]) == 0
    drawn = capsys.readouterr()
    (seed,) = re.findall(r"seed (\d+)$", drawn.err.strip())
    arguments = ["run", MODEL, "--raw", "Hello there", "--max-tokens", "8", "--seed", seed]
    assert main(arguments) == 0
    assert capsys.readouterr().out == drawn.out


def test_json_has_the_answer_and_its_figures(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["run", MODEL, "--raw", "Hello there", "--max-tokens", "8", "--seed", "3"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    pipe_in(monkeypatch, b"Hello there")
    for given in (arguments, [*arguments[:3], *arguments[4:]]):  # the prompt, too, from a pipe
        assert main([*given, "--json"]) == 0
        said = capsys.readouterr()
        assert not said.err
        assert said.out.count("\n") == 1
        told = json.loads(said.out)
        assert (told["text"] + "\n", told["seed"]) == (text, 3)
        assert (told["finish_reason"], told["completion_tokens"]) == ("length", 8)
        assert (told["prompt_tokens"], told["cached_tokens"]) == (10, 0)
        assert told["model"] == "model.gguf"
        parts = ("load", "ttft", "decode")
        assert all(told[f"{part}_seconds"] >= 0 for part in parts)
        rate = 7 / told["decode_seconds"]
        assert told["decode_tokens_per_second"] == pytest.approx(rate, rel=0.02)
        assert told["memory_roof_gbps"] > 0
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert "--json needs a prompt" in refusal(capsys, MODEL, "--json")


def test_a_full_context_is_said(capsys: Output) -> None:
    assert main(["run", MODEL, "--raw", "Hello", "--context-length", "16", "--seed", "1"]) == 0
    assert "the context is full" in capsys.readouterr().err


def test_an_answer_is_not_lost_over_a_roof(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Assembled, reached: float) -> None:
        raise OSError("no huge pages")

    monkeypatch.setattr(Assembled, "read_roof", broken)
    assert main(["run", MODEL, "--raw", "Hello", *GREEDY]) == 0
    said = capsys.readouterr()
    assert said.out.strip()
    assert "memory roof not measured: no huge pages" in said.err


def test_a_terminal_is_shown_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = []
    for stdout in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(
            "ridgeline.engine.answer.Detokenizer.push", lambda *_: "a\x1b[2J\x9b\tb\r\n"
        )
        assert main(["run", MODEL, "--raw", "x", "--max-tokens", "1", "--seed", "1"]) == 0
        outputs.append(stdout.getvalue())
    assert outputs == ["a\ufffd[2J\ufffd\tb\ufffd\n", "a\x1b[2J\x9b\tb\r\n"]


def test_a_process_knows_its_age() -> None:
    first, second = _process_age_seconds(), _process_age_seconds()
    assert 0 < first <= second


def test_a_spinner_turns_on_a_terminal_only(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ridgeline.cli.spinner.PATIENCE_SECONDS", 0.0)
    with show_spinner("loading"):
        pass
    assert not capsys.readouterr().err
    terminal = Terminal()
    turned = []
    monkeypatch.setattr(terminal, "flush", lambda: turned.append(terminal.getvalue()))
    monkeypatch.setattr(sys, "stderr", terminal)
    with show_spinner("loading"):
        while not turned:
            pass
    assert "loading 0 s" in turned[0]
    assert terminal.getvalue().endswith("\r\033[K")


def test_a_picture_is_asked_about(capsys: Output, tmp_path: Path) -> None:
    picture_file = tmp_path / "picture.png"
    picture_file.write_bytes(picture(1))
    model = str(seeing_model(tmp_path / "model"))
    shown = ("--image", str(picture_file))
    assert main(["run", model, "w1 w2", *shown, *GREEDY]) == 0
    with_one = capsys.readouterr()
    assert with_one.out.strip()
    assert main(["run", model, "w1 w2", *shown, *shown, *GREEDY]) == 0
    # Each is its own tokens, one before and one after.
    first, second = (
        int(re.findall(r"(\d+) prompt", said)[0])
        for said in (with_one.err, capsys.readouterr().err)
    )
    assert second - first == TOKENS + 2
    assert "no such file" in refusal(capsys, model, "w1", "--image", str(tmp_path / "none.png"))
    assert "--raw turns off" in refusal(capsys, model, "w1", "--raw", *shown)
