"""Options that say which form an answer has: the fields of `StructuredOutputs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ridgeline.errors import RidgelineError

if TYPE_CHECKING:
    from ridgeline.engine.constrain import StructuredOutputs

# A larger file is refused by its size, unread; the engine's own bounds are far below.
_MAX_FILE_BYTES = 4 * 2**20


def _option(metavar: str, text: str) -> Any:
    return typer.Option(metavar=metavar, help=text, rich_help_panel="Form of the answer")


JsonSchema = Annotated[
    str | None,
    _option("FILE|TEXT", "The answer is an instance of this JSON schema. {}: any JSON."),
]
Regex = Annotated[str | None, _option("REGEX", "The whole answer matches this.")]
Choice = Annotated[
    list[str] | None,
    _option("A,B", "The answer is one of these; repeated: each as it is, commas and all."),
]
Grammar = Annotated[Path | None, _option("FILE", "The answer is of this Lark grammar.")]

# The fields of a RequestError, and whose they are here.
FLAG_OF = {
    "structured_outputs.json": "--json-schema",
    "structured_outputs.regex": "--regex",
    "structured_outputs.choice": "--choice",
    "structured_outputs.grammar": "--grammar",
}


def structured_outputs(
    json_schema: str | None,
    regex: str | None,
    choice: list[str] | None,
    grammar: Path | None,
    *,
    ignore_eos: bool = False,
) -> StructuredOutputs | None:
    """None where nothing is asked. Raises RidgelineError for more than one and for files that
    cannot be read, RequestError for what is no schema, regex, choice or grammar; of a schema's
    keywords before a model is loaded.
    """
    given = [
        flag
        for flag, value in zip(FLAG_OF.values(), (json_schema, regex, choice, grammar), strict=True)
        if value is not None and value != []
    ]
    if not given:
        return None
    if len(given) > 1:
        raise RidgelineError(f"{' and '.join(given)}: an answer has one form; give one of them")
    if ignore_eos:
        raise RidgelineError(f"--ignore-eos and {given[0]}: the form says when to end; drop one")
    for text in (json_schema, regex, *(choice or ())):
        _check_utf8(given[0], text or "")
    from ridgeline.engine.constrain import StructuredOutputs
    from ridgeline.engine.constrain.schema import check_schema

    if json_schema is not None:
        asked = StructuredOutputs(json=_schema_text(json_schema))
        check_schema(asked.schema_text())
        return asked
    if regex is not None:
        return StructuredOutputs(regex=regex)
    if grammar is not None:
        return StructuredOutputs(grammar=_read("--grammar", grammar))
    texts = choice or []
    if len(texts) == 1:
        texts = [text.strip() for text in texts[0].split(",")]
    return StructuredOutputs(choice=texts)


def _schema_text(given: str) -> str:
    """A schema's text begins with a brace or is true or false; all else names a file."""
    text = given.strip()
    if text.startswith(("{", "[")) or text in ("true", "false"):
        return text
    return _read("--json-schema", Path(given))


def _read(flag: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise RidgelineError(f"{flag}: {path} has more than {_MAX_FILE_BYTES} bytes")
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise RidgelineError(f"{flag}: {str(path)[:200]} cannot be read: {reason}") from None


def _check_utf8(flag: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RidgelineError(f"{flag}: is not UTF-8 text (at character {error.start})") from None
