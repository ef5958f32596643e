"""A GGUF file's vocabulary, checked: the metadata keys `tokenizer.ggml.*` as one frozen record.

Nothing here tokenizes. What the keys mean, which token types exist, which pieces end a generation
and what a missing key stands for follow llama.cpp's loader (`src/llama-vocab.cpp`, b-series of
2026), because files are written for it. Where llama.cpp would abort (duplicate tokens, arrays of
unequal length) this raises `ModelError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ridgeline.errors import ModelError

# "marked": merges over text as it is, with marks for spaces.
Kind = Literal["bpe", "spm", "marked"]

# tokenizer.ggml.token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

MAX_TOKENS = 1 << 22  # 16 times the largest published vocabulary
MAX_TOKEN_CHARS = 1 << 16

KINDS: Mapping[str, Kind] = {"gpt2": "bpe", "llama": "spm", "gemma4": "marked"}

# Pieces that end a generation whatever a file's ids say; a file that types one of them NORMAL means
# CONTROL.
END_OF_GENERATION = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
)
# Fill-in-the-middle marks, in the order in which a name is looked for. The last three groups end a
# generation too.
FILL_IN_MIDDLE = (
    (
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<｜fim▁begin｜>",
        "<PRE>",
        "▁<PRE>",
        "<|code_prefix|>",
        "<|prefix|>",
    ),
    (
        "<|fim_suffix|>",
        "<fim-suffix>",
        "<fim_suffix>",
        "<｜fim▁hole｜>",
        "<SUF>",
        "▁<SUF>",
        "<|code_suffix|>",
        "<|suffix|>",
    ),
    (
        "<|fim_middle|>",
        "<fim-middle>",
        "<fim_middle>",
        "<｜fim▁end｜>",
        "<MID>",
        "▁<MID>",
        "<|code_middle|>",
        "<|middle|>",
    ),
    ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    ("<|file_sep|>",),
)
FILL_IN_MIDDLE_KEYS = (
    ("fim_pre_token_id", "prefix_token_id"),
    ("fim_suf_token_id", "suffix_token_id"),
    ("fim_mid_token_id", "middle_token_id"),
    ("fim_pad_token_id",),
    ("fim_rep_token_id",),
    ("fim_sep_token_id",),
)
# gpt-oss: parts of its response format, which a caller wants to see.
ALWAYS_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")
PHI3_KEEPS_SPACE_AFTER = ("<unk>", "<s>", "<|endoftext|>")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a tokenizer is built from. `tokens[i]` is the text of id i as stored (byte-mapped or
    with `▁`); `shown` are the control tokens that are text all the same.
    """

    kind: Kind
    pre: str
    tokens: Sequence[str]
    ids: dict[str, int]
    types: Sequence[float]
    scores: Sequence[float]
    merges: Sequence[str]
    control: frozenset[int]
    user_defined: frozenset[int]
    unknown: frozenset[int]
    strips_right: frozenset[int]
    shown: frozenset[int]
    bos_id: int | None
    eos_id: int | None
    unknown_id: int | None
    pad_id: int | None
    eos_ids: frozenset[int]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    chat_template: str | None


def read_vocabulary(metadata: Mapping[str, object]) -> Vocabulary:
    """The checked vocabulary of a GGUF file's metadata.

    Arrays may be lists, tuples or NumPy arrays; strings may be `str` or UTF-8 `bytes`. Raises
    `ModelError` naming the key that is missing, of the wrong type, of the wrong length, or absurd.
    """
    model = _string(metadata, "tokenizer.ggml.model")
    if model not in KINDS:
        raise ModelError(
            f"tokenizer.ggml.model: {model[:80]!r} is not supported; "
            f"supported: {', '.join(sorted(KINDS))}"
        )
    kind = KINDS[model]
    pre = _string(metadata, "tokenizer.ggml.pre", "default") or "default"
    tokens = _strings(metadata, "tokenizer.ggml.tokens")
    if not tokens:
        raise ModelError("tokenizer.ggml.tokens: is empty; a vocabulary needs at least one token")
    if "" in tokens:
        tokens = [text or f"[EMPTY_{index}]" for index, text in enumerate(tokens)]
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) != len(tokens):
        raise ModelError(f"tokenizer.ggml.tokens: {_first_duplicate(tokens)!r} occurs twice")

    count = len(tokens)
    types = _numbers(metadata, "tokenizer.ggml.token_type", count) or [NORMAL] * count
    scores: Sequence[float] = ()
    if kind == "spm":
        scores = _numbers(metadata, "tokenizer.ggml.scores", count) or [0.0] * count
        if np.isnan(np.asarray(scores, np.float64)).any():
            raise ModelError("tokenizer.ggml.scores: holds a NaN; merges have no order")
    merges: Sequence[str] = ()
    if kind != "spm":
        merges = _strings(metadata, "tokenizer.ggml.merges")

    types_array = np.asarray(types)
    control, user_defined, unknown = (
        set(np.flatnonzero(types_array == kept).tolist())
        for kept in (CONTROL, USER_DEFINED, UNKNOWN)
    )

    # Llama's own files carry no ids; these are what every reader assumes.
    spm = kind == "spm"
    bos_id = _token_id(metadata, "bos_token_id", 1 if spm else None, count)
    eos_id = _token_id(metadata, "eos_token_id", 2 if spm else None, count)
    eos_ids = _end_ids(metadata, ids, count, control, user_defined)
    if eos_id is not None:
        eos_ids.add(eos_id)
    # Qwen and Gemma have HTML's </s> as a plain token. llama.cpp reads it as a control token and so
    # must `encode`, but a page of HTML neither ends there nor loses it.
    shown: set[int] = set()
    html = ids.get("</s>")
    if html is not None and types[html] == NORMAL and eos_id not in (None, html):
        eos_ids.discard(html)
        shown.add(html)

    strips_right: set[int] = set()
    name = metadata.get("general.name")
    if isinstance(name, str) and any(mark in name.lower() for mark in ("phi-3", "phi3")):
        strips_right = control | user_defined | unknown
        strips_right.update(ids[text] for text in ("</s>",) if text in ids)
        strips_right.difference_update(ids[text] for text in PHI3_KEEPS_SPACE_AFTER if text in ids)

    return Vocabulary(
        kind=kind,
        pre=pre,
        tokens=tokens,
        ids=ids,
        types=types,
        scores=scores,
        merges=merges,
        control=frozenset(control),
        user_defined=frozenset(user_defined),
        unknown=frozenset(unknown),
        strips_right=frozenset(strips_right),
        shown=frozenset(shown),
        bos_id=bos_id,
        eos_id=eos_id,
        unknown_id=_token_id(metadata, "unknown_token_id", 0 if spm else None, count),
        pad_id=_token_id(metadata, "padding_token_id", None, count),
        eos_ids=frozenset(eos_ids),
        add_bos=_flag(metadata, "tokenizer.ggml.add_bos_token", _adds_bos(kind, pre)),
        add_eos=_flag(metadata, "tokenizer.ggml.add_eos_token", False),
        add_space_prefix=spm and _flag(metadata, "tokenizer.ggml.add_space_prefix", True),
        chat_template=_string(metadata, "tokenizer.chat_template", "") or None,
    )


def _adds_bos(kind: Kind, pre: str) -> bool:
    return kind != "bpe" or pre in ADD_BOS_PRE


ADD_BOS_PRE = frozenset(
    (
        "llama3",
        "llama-v3",
        "llama-bpe",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
        "tekken",
    )
)


def _end_ids(
    metadata: Mapping[str, object],
    ids: Mapping[str, int],
    count: int,
    control: set[int],
    user_defined: set[int],
) -> set[int]:
    """Ids that end a generation; marks those and the fill-in-the-middle pieces as control tokens on
    the way.
    """
    ends: set[int] = set()
    for position, names in enumerate(FILL_IN_MIDDLE):
        found = None
        for key in FILL_IN_MIDDLE_KEYS[position]:
            found = _token_id(metadata, key, found, count)
        if found is None:
            found = next((ids[name] for name in names if name in ids), None)
            if found is not None:
                control.add(found)
        if found is not None and position >= 3:
            ends.add(found)
    named = {name: ids[name] for name in END_OF_GENERATION if name in ids}
    control.update(named.values())
    ends.update(named_end_ids(ids))
    for key in ("eot_token_id", "eom_token_id"):
        end = _token_id(metadata, key, None, count)
        if end is not None:
            ends.add(end)
    for name in ALWAYS_SHOWN:
        if name in ids:
            control.discard(ids[name])
            user_defined.add(ids[name])
    for name, index in named.items():
        if index not in ends:
            control.discard(index)
            if name == "<|end|>":
                user_defined.add(index)
    return ends


def named_end_ids(ids: Mapping[str, int]) -> set[int]:
    """The ids among `ids` (token text → id) whose very text says that a generation ends."""
    named = {name for name in END_OF_GENERATION if name in ids}
    # In the harmony format <|end|> closes a message, not the answer; beside <|tool_response>, </s>
    # is text.
    if {"<|return|>", "<|call|>"} <= named or (
        "<|flush|>" in named and named & {"<|call|>", "<|calls|>"}
    ):
        named.discard("<|end|>")
    if "<|tool_response>" in named:
        named.discard("</s>")
    return {ids[name] for name in named}


def _first_duplicate(tokens: Sequence[str]) -> str:
    seen: set[str] = set()
    for text in tokens:
        if text in seen:
            return text[:80]
        seen.add(text)
    raise AssertionError("called only where a duplicate exists")


def _string(metadata: Mapping[str, object], key: str, default: str | None = None) -> str:
    value = metadata.get(key, default)
    if value is None:
        raise ModelError(f"{key}: is missing; the file holds no tokenizer that can be read")
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, str):
        raise ModelError(f"{key}: is {_type_name(value)}, not a string")
    return value


def _flag(metadata: Mapping[str, object], key: str, default: bool) -> bool:
    value = metadata.get(key, default)
    if isinstance(value, bool) or type(value).__name__ == "bool_":
        return bool(value)
    raise ModelError(f"{key}: is {_type_name(value)}, not a boolean")


def _token_id(
    metadata: Mapping[str, object], name: str, default: int | None, count: int
) -> int | None:
    """An id from `tokenizer.ggml.<name>`; one outside the vocabulary counts as absent, as in
    llama.cpp.
    """
    key = f"tokenizer.ggml.{name}"
    value = metadata.get(key)
    if value is not None:
        try:
            if isinstance(value, (bool, str, bytes, float)):
                raise TypeError
            index = int(value)  # type: ignore[call-overload]
        except (TypeError, ValueError):
            raise ModelError(f"{key}: is {_type_name(value)}, not a token id") from None
        if 0 <= index < count:
            return int(index)
    return default if default is not None and default < count else None


def _sequence(metadata: Mapping[str, object], key: str) -> Sequence[object]:
    value = metadata[key]
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ModelError(f"{key}: is {_type_name(value)}, not an array")
    if len(value) > MAX_TOKENS:
        raise ModelError(f"{key}: has {len(value)} entries; at most {MAX_TOKENS} are allowed")
    return value


def _strings(metadata: Mapping[str, object], key: str) -> list[str]:
    if key not in metadata:
        raise ModelError(f"{key}: is missing; the file holds no tokenizer that can be read")
    values = _sequence(metadata, key)
    kinds = set(map(type, values))
    if kinds == {bytes}:
        values = [value.decode("utf-8", "replace") for value in values]  # type: ignore[attr-defined]
        kinds = {str}
    if kinds - {str}:
        wrong = next(iter(kinds - {str})).__name__
        raise ModelError(f"{key}: holds a value of type {wrong}, not only strings")
    texts = list(values)
    if max(map(len, texts), default=0) > MAX_TOKEN_CHARS:  # type: ignore[arg-type]
        raise ModelError(f"{key}: holds a string longer than {MAX_TOKEN_CHARS} characters")
    return texts  # type: ignore[return-value]


def _numbers(metadata: Mapping[str, object], key: str, count: int) -> list[float]:
    """The array at `key`, of `count` numbers; empty where the key is absent."""
    if key not in metadata:
        return []
    values = _sequence(metadata, key)
    if len(values) < count:
        raise ModelError(f"{key}: has {len(values)} entries for {count} tokens")
    wrong = set(map(type, values)) - {int, float}
    if wrong:
        raise ModelError(f"{key}: holds a value of type {next(iter(wrong)).__name__}, not numbers")
    return list(values[:count])  # type: ignore[arg-type]


def _type_name(value: object) -> str:
    return f"a value of type {type(value).__name__}"
