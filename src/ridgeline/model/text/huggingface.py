"""A tokenizer from a Hugging Face directory: `tokenizer.json`, run by the `tokenizers` package, and
what lies beside it.

Reads tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json and
chat_template.jinja where they exist; no code of the directory is run. Bytes of a token follow from
the decoder that `tokenizer.json` names: byte-level, WordPiece, or SentencePiece-style;
others raise `ModelError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ridgeline.errors import ModelError
from ridgeline.model.text.byte_level import byte_level_bytes
from ridgeline.model.text.sentencepiece import byte_token_bytes
from ridgeline.model.text.tokenizer import Encode, Tokenizer
from ridgeline.model.text.vocabulary import MAX_TOKENS, named_end_ids

if TYPE_CHECKING:
    import tokenizers

MAX_JSON_BYTES = 1 << 28
Json = Mapping[str, object]


def read_directory(directory: Path) -> Tokenizer:
    """The tokenizer of `directory`; `ModelError` names the file that is missing or wrong."""
    path = directory / "tokenizer.json"
    engine = _read_tokenizer(path)
    settings = _read_json(directory / "tokenizer_config.json")
    tokens_map = _read_json(directory / "special_tokens_map.json")
    added = engine.get_added_tokens_decoder()
    added_ids = {token.content: index for index, token in added.items()}

    def token_id(name: str) -> int | None:
        for source in (settings, tokens_map):
            content = source.get(name)
            if isinstance(content, Mapping):
                content = content.get("content")
            if isinstance(content, str):
                index = added_ids.get(content)
                return engine.token_to_id(content) if index is None else index
        return None

    def token_text(index: int) -> str:
        return engine.id_to_token(index) or ""

    bos_id, eos_id = token_id("bos_token"), token_id("eos_token")
    eos_ids = named_end_ids(added_ids)
    if eos_id is not None:
        eos_ids.add(eos_id)
    # Ids may have gaps, so that their number says nothing about the largest.
    vocab_size = 1 + max(0, *engine.get_vocab(with_added_tokens=True).values(), *added)
    if vocab_size > MAX_TOKENS:
        raise ModelError(f"{path}: token id {vocab_size - 1} is absurd: at most {MAX_TOKENS} ids")
    for file_name in ("generation_config.json", "config.json"):
        eos_ids.update(_end_ids(directory / file_name, vocab_size))
    around = engine.encode("", add_special_tokens=True).ids
    convert, strips_leading_space = _token_conversion(engine, path)

    def token_bytes(index: int) -> bytes:
        token = added.get(index)
        text = token_text(index) if token is None else token.content
        return convert(text) if token is None else text.encode("utf-8", "replace")

    return Tokenizer(
        vocab_size=vocab_size,
        bos_id=bos_id,
        eos_id=eos_id,
        unknown_id=token_id("unk_token"),
        pad_id=token_id("pad_token"),
        eos_ids=frozenset(eos_ids),
        special_ids=frozenset(index for index, token in added.items() if token.special),
        add_bos=bos_id is not None and bos_id in around[:1],
        add_eos=eos_id is not None and eos_id in around[-1:] and around[-1:] != around[:1],
        strips_leading_space=strips_leading_space,
        chat_template=_chat_template(directory, settings),
        _encode=_encode_with(engine),
        _text=token_text,
        _bytes=token_bytes,
    )


def _encode_with(engine: tokenizers.Tokenizer) -> Encode:
    @cache
    def plain_engine() -> tokenizers.Tokenizer:
        # The switch belongs to the whole object, so text that must stay text gets an object of its
        # own.
        copy: tokenizers.Tokenizer = type(engine).from_str(engine.to_str())
        copy.encode_special_tokens = True
        return copy

    def encode(text: str, add_special: bool, parse_special: bool) -> list[int]:
        chosen = engine if parse_special else plain_engine()
        ids: list[int] = chosen.encode(text, add_special_tokens=add_special).ids
        return ids

    return encode


def _read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Engine

    if not path.is_file():
        raise ModelError(f"{path}: is missing; a Hugging Face directory needs a tokenizer.json")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelError(f"{path}: is larger than {MAX_JSON_BYTES >> 20} MiB; not a tokenizer")
    try:
        engine: Engine = Engine.from_file(str(path))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the package raises bare Exception, and panics on some files
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: cannot be read: {first[:200]}") from None
    engine.no_truncation()
    engine.no_padding()
    return engine


def _read_json(path: Path) -> Json:
    """The object in `path`; empty where there is no such file."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelError(f"{path}: is larger than {MAX_JSON_BYTES >> 20} MiB")
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path}: is not JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds no JSON object")
    return value


def _end_ids(path: Path, vocab_size: int) -> list[int]:
    value = _read_json(path).get("eos_token_id")
    values = value if isinstance(value, list) else [] if value is None else [value]
    ids: list[int] = []
    for index in values:
        if not isinstance(index, int) or isinstance(index, bool):
            raise ModelError(f"{path}: eos_token_id: {index!r} is not a token id")
        if 0 <= index < vocab_size:
            ids.append(index)
    return ids


def _chat_template(directory: Path, settings: Json) -> str | None:
    """chat_template.jinja, chat_template.json, or the default one of tokenizer_config.json."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read: {error}") from None
    value = _read_json(directory / "chat_template.json").get("chat_template")
    if value is None:
        value = settings.get("chat_template")
    if isinstance(value, list):
        named = {
            entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)
        }
        value = named.get("default")
    return value if isinstance(value, str) else None


def _word_pieces(prefix: str) -> Callable[[str], bytes]:
    """A piece with the prefix continues a word; others begin one."""

    def convert(text: str) -> bytes:
        text = text[len(prefix) :] if text.startswith(prefix) else f" {text}"
        return text.encode("utf-8", "replace")

    return convert


def _token_conversion(
    engine: tokenizers.Tokenizer, path: Path
) -> tuple[Callable[[str], bytes], bool]:
    """How a token's text becomes bytes, and whether a decoded text loses its first space."""
    state = {} if engine.decoder is None else json.loads(engine.decoder.__getstate__())
    steps = state.get("decoders", []) if state.get("type") == "Sequence" else [state]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return byte_level_bytes, False
    if kinds == ["WordPiece"]:
        return _word_pieces(str(state.get("prefix", "##"))), True
    replaced = {
        step["pattern"]["String"]: step["content"]
        for step in steps
        if step.get("type") == "Replace" and "String" in step.get("pattern", {})
    }
    strips = any(
        step.get("type") == "Strip" and step.get("content") == " " and step.get("start") == 1
        for step in steps
    )
    metaspace = [step for step in steps if step.get("type") == "Metaspace"]
    for step in metaspace:
        replaced[step.get("replacement", "▁")] = " "
        strips = strips or step.get("prepend_scheme", "always") != "never"
    known = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
    if not replaced or not set(kinds) <= known:
        raise ModelError(
            f"{path}: decoder {'+'.join(str(kind) for kind in kinds)} is not supported; "
            "supported: ByteLevel, WordPiece, Metaspace, and Replace+ByteFallback+Fuse+Strip"
        )
    by_byte = "ByteFallback" in kinds

    def convert(text: str) -> bytes:
        data = byte_token_bytes(text) if by_byte else text.encode("utf-8", "replace")
        if len(data) == 1 and len(text) == 6:
            return data
        for old, new in replaced.items():
            text = text.replace(old, new)
        return text.encode("utf-8", "replace")

    return convert, strips
