"""`ridgeline run` with the form of its answer: its flags, and refusals in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from ridgeline.cli.main import main

MODEL = str(Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf")
SCHEMA = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 99},
    "minItems": 1,
    "maxItems": 3,
}
Output = pytest.CaptureFixture[str]


def answer(capsys: Output, *flags: str) -> str:
    assert main(["run", MODEL, "hello", "--raw", "--seed", "4", "--max-tokens", "60", *flags]) == 0
    return capsys.readouterr().out.removesuffix("\n")


def test_a_schema_as_text_or_as_a_file(tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA), encoding="utf-8")
    said = answer(capsys, "--json-schema", str(file))
    jsonschema.validate(json.loads(said), SCHEMA)
    assert answer(capsys, "--json-schema", json.dumps(SCHEMA)) == said


def test_a_regex_choices_and_a_grammar(tmp_path: Path, capsys: Output) -> None:
    assert re.fullmatch("[0-9]{3}-[0-9]{2}", answer(capsys, "--regex", "[0-9]{3}-[0-9]{2}"))
    assert answer(capsys, "--choice", "12, 34") in ("12", "34")
    assert answer(capsys, "--choice", "1,2", "--choice", "3,4") in ("1,2", "3,4")
    file = tmp_path / "sum.lark"
    file.write_text('start: N "+" N\nN: /[0-9]{1,2}/\n', encoding="utf-8")
    assert re.fullmatch(r"[0-9]{1,2}\+[0-9]{1,2}", answer(capsys, "--grammar", str(file)))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--regex", "a", "--choice", "b"), "--regex and --choice: an answer has one form"),
        (("--regex", "a", "--ignore-eos"), "--ignore-eos and --regex: "),
        (("--json-schema", "none.json"), "--json-schema: none.json cannot be read: No such file"),
        (("--json-schema", "."), "--json-schema: . cannot be read: Is a directory"),
        (("--json-schema", "{"), "--json-schema: is not JSON"),
        (("--json-schema", "[]"), "--json-schema: #: a schema is"),
        (("--json-schema", '{"properties": {"a": {"not": {}}}}'), "--json-schema: #/properties/a/"),
        (("--grammar", "none.lark"), "--grammar: none.lark cannot be read"),
        (("--choice", "a,"), "--choice: must be texts of at least one character"),
        (("--regex", ""), "--regex: must be a text of at least one character"),
        (("--regex", "(a"), "--regex: "),
        (("--regex", "\udc80"), "--regex: is not UTF-8 text"),
    ],
)
def test_what_is_no_form_is_refused_in_one_line(
    flags: tuple[str, ...], told: str, capsys: Output
) -> None:
    assert main(["run", MODEL, "hi", "--raw", *flags]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith(f"error: {told}")
    assert said.err.count("\n") == 1
