"""Tokenizers on small vocabularies made here; the real ones are in tests/real/test_tokens.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import ModelError, RequestError
from ridgeline.model.text.byte_level import byte_characters
from ridgeline.model.text.pre_tokenizers import expressions_of
from ridgeline.model.text.sentencepiece import merge_by_score
from ridgeline.model.text.special_tokens import index_special_tokens, split_special
from ridgeline.model.text.tokenizer import Tokenizer

BYTES = byte_characters()
WORDS = ["he", "ll", "hell", "hello", "Ġw", "Ġwo", "é", "Ã©"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "Ġw o", "Ã ©"]
SPECIAL = ["<|start|x>", "<|im_end|>", "<user>"]


def bpe_metadata(**changes: object) -> dict[str, object]:
    """A byte-level vocabulary: 256 bytes, the results of MERGES, a BOS, an end of turn, a user's
    token.
    """
    tokens = [*BYTES, *(piece for piece in WORDS if piece not in BYTES), *SPECIAL]
    first = len(tokens) - len(SPECIAL)
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([1] * first + [3, 3, 4], np.int32),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": np.uint32(first),
        "tokenizer.ggml.eos_token_id": first + 1,
    }
    metadata.update({f"tokenizer.ggml.{key}": value for key, value in changes.items()})
    return {key: value for key, value in metadata.items() if value is not None}


def spm_metadata(**changes: object) -> dict[str, object]:
    """A SentencePiece-style vocabulary with bytes, words, a newline of the user's, and Llama's
    defaults.
    """
    words = ["▁", "a", "b", "ab", "▁a", "▁ab", "aa", "aaa", "▁▁", "b▁a", "é"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words, "\n"]
    scores = [0.0] * 259 + [-float(place) for place in range(len(words))] + [-1000.0]
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array(scores, np.float32),
        "tokenizer.ggml.token_type": [2, 3, 3, *([6] * 256), *([1] * len(words)), 4],
    }
    metadata.update({f"tokenizer.ggml.{key}": value for key, value in changes.items()})
    return {key: value for key, value in metadata.items() if value is not None}


def texts_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.token_text(index) for index in ids]


def test_bpe_merges_by_rank_within_words() -> None:
    tokenizer = Tokenizer.from_gguf(bpe_metadata())
    assert texts_of(tokenizer, tokenizer.encode("hello wo hel")) == [
        *("hello", "Ġwo", "Ġ", "he", "l"),
    ]
    assert tokenizer.decode(tokenizer.encode("hello wo é")) == "hello wo é"
    assert tokenizer.encode("") == []


def test_special_tokens_are_cut_out_and_added() -> None:
    tokenizer = Tokenizer.from_gguf(bpe_metadata(add_bos_token=True, add_eos_token=True))
    assert tokenizer.bos_id is not None
    assert tokenizer.encode("") == [tokenizer.bos_id, tokenizer.eos_id]
    ids = tokenizer.encode("h<|im_end|><user>", add_special=False)
    assert texts_of(tokenizer, ids) == ["h", "<|im_end|>", "<user>"]
    assert tokenizer.decode(ids) == "h<user>"
    assert tokenizer.decode(ids, skip_special=False) == "h<|im_end|><user>"
    # A user-defined token is a token even where control tokens are text.
    plain = texts_of(
        tokenizer, tokenizer.encode("<|im_end|><user>", add_special=False, parse_special=False)
    )
    assert plain == [*"<|im_end|>", "<user>"]


def test_bos_is_added_by_default_only_where_the_family_does() -> None:
    assert not Tokenizer.from_gguf(bpe_metadata()).add_bos
    assert Tokenizer.from_gguf(bpe_metadata(pre="llama-bpe")).add_bos
    assert not Tokenizer.from_gguf(bpe_metadata(pre="llama-bpe", add_bos_token=False)).add_bos
    assert Tokenizer.from_gguf(spm_metadata()).encode("a")[0] == 1


def test_a_whole_word_that_is_a_token_wins_where_merges_are_ignored() -> None:
    tokens = [*BYTES, "ab", "bc", "abc"]
    changes = {"tokens": tokens, "token_type": None, "bos_token_id": 0, "merges": ["b c", "a b"]}
    merged = Tokenizer.from_gguf(bpe_metadata(**changes))
    assert texts_of(merged, merged.encode("abc")) == ["a", "bc"]
    whole = Tokenizer.from_gguf(bpe_metadata(**changes, pre="llama-bpe"))
    assert texts_of(whole, whole.encode("abc", add_special=False)) == ["abc"]


def test_bytes_that_a_vocabulary_lacks_are_dropped_and_part_their_neighbours() -> None:
    tokens = [char for char in BYTES if char not in (BYTES[4], "!")]
    changes = {"tokens": [*tokens, "ab"], "token_type": None, "merges": ["a b"]}
    tokenizer = Tokenizer.from_gguf(bpe_metadata(**changes))
    assert texts_of(tokenizer, tokenizer.encode("a\x04b!ab")) == ["a", "b", "ab"]


def test_a_merge_whose_result_is_no_token_gives_its_ascii_characters() -> None:
    tokenizer = Tokenizer.from_gguf(
        bpe_metadata(tokens=BYTES, token_type=None, merges=["a b", "ab Ġ", "ab c"])
    )
    assert texts_of(tokenizer, tokenizer.encode("abc")) == ["a", "b", "c"]


def test_the_first_of_equal_merges_counts() -> None:
    tokens = [*BYTES, "ab", "bc"]
    changes = {"tokens": tokens, "token_type": None, "merges": ["b c", "a b", "b c"]}
    tokenizer = Tokenizer.from_gguf(bpe_metadata(**changes))
    assert texts_of(tokenizer, tokenizer.encode("abc")) == ["a", "bc"]


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("gpt-2", "a'll  b12", ["a", "'ll", " ", " b", "12"]),
        ("smollm", "a 123", ["a", " ", "1", "2", "3"]),
        ("llama-bpe", "It'LL 12345\n\n x", ["It", "'LL", " ", "123", "45", "\n\n", " x"]),
        ("qwen2", "a 12\r\n", ["a", " ", "1", "2", "\r\n"]),
        ("tekken", "fooBar 1/\n", ["foo", "Bar", " ", "1", "/\n"]),
        ("gpt-4o", "it's Foo's", ["it's", " Foo's"]),
        ("default", "a+=12345", ["a", "+=", "123", "45"]),
        # Its punctuation has ASCII's letters in it, which parts them from others.
        ("deepseek-llm", "aß 漢字, x12 \n", ["a", "ß", " ", "漢字", ",", " x", "12", " ", "\n"]),
        ("kimi-k2", "漢字é ABc'S 1234\n", ["漢字", "é", " ABc'S", " ", "123", "4", "\n"]),
        ("deepseek-v3", "漢字 x12345", ["漢字", " x", "123", "45"]),
    ],
)
def test_pre_tokenizers_cut(pre: str, text: str, words: list[str]) -> None:
    splitter = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(part), "isolated")
            for part in expressions_of(pre)
        ]
    )
    assert [word for word, _ in splitter.pre_tokenize_str(text)] == words


@pytest.mark.parametrize(
    ("name", "count"), [("L", 136_726), ("N", 1_831), ("M", 2_450), ("P", 842), ("S", 7_775)]
)
def test_character_classes_are_unicode_15(
    name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when the tokenizers package moves to a newer Unicode, whose additions must then be left
    out.
    """
    from ridgeline.model.text import pre_tokenizers

    monkeypatch.setattr(pre_tokenizers, "EXPRESSIONS", {"class": [rf"\p{{{name}}}+"]})
    expression = tokenizers.Regex(expressions_of("class")[0])
    planes = [*range(0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE1000)]
    text = "".join(map(chr, planes))
    kept = tokenizers.pre_tokenizers.Split(expression, "removed").pre_tokenize_str(text)
    assert len(text) - sum(len(part) for part, _ in kept) == count


def naive_merges(text: str, ids: dict[str, int], costs: list[float]) -> list[str]:
    """The definition: join the best pair, the leftmost of equals, until there is none."""
    parts = list(text)
    while True:
        pairs = [
            (costs[ids[left + right]], place)
            for place, (left, right) in enumerate(pairwise(parts))
            if left + right in ids
        ]
        if not pairs:
            return parts
        place = min(pairs)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


vocabularies = st.lists(
    st.tuples(st.text("ab▁", min_size=2, max_size=5), st.integers(0, 3)), max_size=20
)


@settings(max_examples=300, deadline=None)
@given(vocabularies, st.text("ab▁", max_size=30))
def test_merging_by_score_is_its_definition_ties_and_all(
    words: list[tuple[str, int]], text: str
) -> None:
    ids = {word: place for place, word in enumerate(dict.fromkeys(word for word, _ in words))}
    costs = [float(dict(words)[word]) for word in ids]
    assert merge_by_score(text, ids, costs) == naive_merges(text, ids, costs)


@settings(max_examples=200, deadline=None)
@given(vocabularies, st.text("ab \n", max_size=30))
def test_merging_word_by_word_changes_nothing(words: list[tuple[str, int]], text: str) -> None:
    pieces = dict.fromkeys(["<unk>", "<s>", "</s>", "▁", "a", "b", *(word for word, _ in words)])
    ids = {piece: place for place, piece in enumerate(pieces)}
    scores = [-float(dict(words).get(piece, 9)) for piece in ids]
    tokenizer = Tokenizer.from_gguf(
        spm_metadata(tokens=list(ids), scores=scores, token_type=None, add_space_prefix=False)
    )
    expected = [
        ids.get(piece, 0)
        for piece in naive_merges(text.replace(" ", "▁"), ids, [-score for score in scores])
    ]
    assert tokenizer.encode(text, add_special=False) == expected
    assert tokenizer.encode(text, add_special=False) == expected  # remembered words


def test_sentencepiece_prefix_bytes_and_special() -> None:
    tokenizer = Tokenizer.from_gguf(spm_metadata())
    assert texts_of(tokenizer, tokenizer.encode("ab</s>ab\nab", add_special=False)) == [
        *("▁ab", "</s>", "▁ab", "\n", "▁ab"),
    ]
    ids = tokenizer.encode("ab ñé", add_special=False)
    assert texts_of(tokenizer, ids) == ["▁ab", "▁", "<0xC3>", "<0xB1>", "é"]
    assert tokenizer.decode(ids) == "ab ñé"
    assert tokenizer.decode(ids, continues=True) == " ab ñé"
    bare = Tokenizer.from_gguf(spm_metadata(add_space_prefix=False))
    assert texts_of(bare, bare.encode("ab ab", add_special=False)) == ["ab", "▁ab"]
    assert bare.decode(bare.encode(" ab")) == " ab"


def test_merges_over_text_as_it_is_with_marked_spaces() -> None:
    """Gemma 4's: no words, runs of line ends whole, bytes for what is no piece."""
    words = ["▁", "a", "b", "c", "ab", "▁c", "ab▁c", "\n", "\n\n\n"]
    tokens = ["<pad>", "<eos>", "<bos>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    metadata = {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3, *([6] * 256), *([1] * len(words))],
        "tokenizer.ggml.merges": ["a b", "▁ c", "ab ▁c"],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
    }
    tokenizer = Tokenizer.from_gguf(metadata)
    text = "ab c\n\n\n ca\n\né"
    ids = tokenizer.encode(text)
    expected = ["<bos>", "ab▁c", "\n\n\n", "▁c", "a", "\n", "\n", "<0xC3>", "<0xA9>"]
    assert [tokens[index] for index in ids] == expected
    assert tokenizer.decode(ids[1:]) == text
    with pytest.raises(ModelError, match=r"tokenizer\.ggml\.merges"):
        Tokenizer.from_gguf(metadata | {"tokenizer.ggml.merges": ["a zz"]}).encode("a")


def test_a_token_may_reach_across_a_space() -> None:
    tokenizer = Tokenizer.from_gguf(spm_metadata(add_space_prefix=False))
    ids = tokenizer.encode("b ab", add_special=False)
    assert texts_of(tokenizer, ids) == ["b", "▁ab"]
    scores = np.zeros(271, np.float32)
    scores[259 + 9] = 5.0  # b▁a
    scores[259 + 4] = 1.0  # ▁a
    across = Tokenizer.from_gguf(spm_metadata(add_space_prefix=False, scores=scores))
    assert texts_of(across, across.encode("b ab", add_special=False)) == ["b▁a", "b"]


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_characters="▁", codec="utf-8"), max_size=60))
def test_text_comes_back(text: str) -> None:
    for tokenizer in (BPE, SPM):
        ids = tokenizer.encode(text, add_special=False, parse_special=False)
        assert tokenizer.decode(ids, skip_special=False) == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


BPE = Tokenizer.from_gguf(bpe_metadata())
SPM = Tokenizer.from_gguf(spm_metadata(add_space_prefix=False))


def test_the_longest_special_token_wins_even_where_another_starts_earlier() -> None:
    special = index_special_tokens({"<a><b": 1, "b><cc>": 2, "<": 3})
    assert split_special("x<a><b><cc>y<", special) == ["x", 3, "a>", 3, 2, "y", 3]
    assert split_special("", special) == []
    assert split_special("<a><b<a><b", special) == [1, 1]


def test_phi_3_swallows_the_space_after_special_tokens() -> None:
    metadata = bpe_metadata() | {"general.name": "Phi-3 mini"}
    tokenizer = Tokenizer.from_gguf(metadata)
    assert texts_of(tokenizer, tokenizer.encode("a<|im_end|> \n b")) == ["a", "<|im_end|>", "b"]


def test_every_id_that_ends_a_generation_is_known() -> None:
    tokens = [*BYTES, "<|eot_id|>", "<|endoftext|>", "<end_of_turn>", "<|end|>", "stop", "eom"]
    tokenizer = Tokenizer.from_gguf(
        bpe_metadata(tokens=tokens, token_type=None, eos_token_id=260, eom_token_id=261)
    )
    assert tokenizer.eos_ids == {256, 257, 258, 259, 260, 261}
    assert {256, 257, 258, 259} <= tokenizer.special_ids
    harmony = Tokenizer.from_gguf(
        bpe_metadata(tokens=[*tokens, "<|return|>", "<|call|>"], token_type=None, eos_token_id=262)
    )
    assert 259 not in harmony.eos_ids
    html = Tokenizer.from_gguf(
        bpe_metadata(tokens=[*tokens, "</s>"], token_type=None, eos_token_id=257)
    )
    assert 262 not in html.eos_ids | html.special_ids
    assert html.encode("a</s>") == [BPE_TOKENS.index("a"), 262]
    assert {262, 263} <= harmony.eos_ids


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": None}, "tokenizer.ggml.model"),
        ({"model": "bert"}, "supported: gemma4, gpt2, llama"),
        ({"model": 3}, "tokenizer.ggml.model"),
        ({"pre": "klingon"}, "known: "),
        ({"pre": 7}, "tokenizer.ggml.pre"),
        ({"tokens": None}, "tokenizer.ggml.tokens: is missing"),
        ({"tokens": []}, "tokenizer.ggml.tokens: is empty"),
        ({"tokens": "abc"}, "tokenizer.ggml.tokens: is a value of type str"),
        ({"tokens": ["a", 3], "token_type": None}, "tokenizer.ggml.tokens: holds a value"),
        ({"tokens": ["a", "b", "a"], "token_type": None}, "'a' occurs twice"),
        ({"tokens": ["a" * 100_000], "token_type": None}, "longer than"),
        ({"token_type": [1, 1]}, "tokenizer.ggml.token_type: has 2 entries"),
        ({"token_type": ["x"] * 300}, "tokenizer.ggml.token_type: holds"),
        ({"token_type": 4}, "tokenizer.ggml.token_type: is a value"),
        ({"merges": None}, "tokenizer.ggml.merges: is missing"),
        ({"merges": ["ab"]}, "tokenizer.ggml.merges[0]"),
        ({"merges": ["a "]}, "tokenizer.ggml.merges[0]"),
        ({"merges": [1]}, "tokenizer.ggml.merges"),
        ({"bos_token_id": "1"}, "tokenizer.ggml.bos_token_id"),
        ({"bos_token_id": 10**9, "add_bos_token": True}, "tokenizer.ggml.bos_token_id"),
        ({"add_bos_token": 1}, "tokenizer.ggml.add_bos_token"),
        ({"scores": [0.0], "model": "llama"}, "tokenizer.ggml.scores: has 1"),
        ({"scores": [float("nan")] * 300, "model": "llama"}, "tokenizer.ggml.scores: holds a NaN"),
    ],
)
def test_wrong_metadata_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(ModelError) as caught:
        Tokenizer.from_gguf(bpe_metadata(**change))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


odd_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(),
    lambda part: st.lists(part, max_size=300),
    max_leaves=300,
)


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.dictionaries(st.integers(0, 20), odd_values, min_size=1, max_size=3))
def test_any_metadata_is_read_or_refused(spm: bool, changes: dict[int, object]) -> None:
    metadata = spm_metadata() if spm else bpe_metadata()
    keys = sorted(metadata | {f"tokenizer.ggml.{name}": 0 for name in OPTIONAL})
    metadata.update({keys[place % len(keys)]: value for place, value in changes.items()})
    fault = ""
    try:
        tokenizer = Tokenizer.from_gguf(metadata)
        tokenizer.decode(tokenizer.encode("a b\n<s>é"))
    except ModelError as error:
        fault = str(error)
    assert fault == "" or "tokenizer." in fault
    assert len(fault.splitlines()) <= 1


OPTIONAL = (
    "add_bos_token",
    "add_eos_token",
    "add_space_prefix",
    "eot_token_id",
    "scores",
    "merges",
)


def test_bytes_are_read_as_strings() -> None:
    metadata = bpe_metadata()
    metadata["tokenizer.ggml.tokens"] = [token.encode() for token in BPE_TOKENS]
    assert Tokenizer.from_gguf(metadata).encode("hello") == BPE.encode("hello")


BPE_TOKENS = [BPE.token_text(index) for index in range(BPE.vocab_size)]


def test_ids_and_text_that_cannot_be() -> None:
    for index in (-1, BPE.vocab_size, 10**12):
        with pytest.raises(RequestError, match="outside the vocabulary"):
            BPE.token_bytes(index)
        with pytest.raises(RequestError, match="outside the vocabulary"):
            BPE.decode([index])
    with pytest.raises(RequestError, match="surrogate"):
        BPE.encode("a\ud800")


def test_an_unused_token_adds_nothing() -> None:
    types = [1] * (BPE.vocab_size - 1) + [5]
    tokenizer = Tokenizer.from_gguf(bpe_metadata(token_type=types))
    assert tokenizer.token_bytes(BPE.vocab_size - 1) == b""


# Hugging Face directories


def byte_level_file() -> tokenizers.Tokenizer:
    vocab = {text: index for index, text in enumerate(BPE_TOKENS[:-3])}
    merges = [(left, right) for left, right in (merge.split() for merge in MERGES)]
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    made.normalizer = tokenizers.normalizers.NFC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<bos>", "<|im_end|>"])
    made.add_tokens(["<tool>"])
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", made.token_to_id("<bos>"))]
    )
    made.enable_truncation(4)
    return made


def sentencepiece_file() -> tokenizers.Tokenizer:
    pieces = [
        "<unk>",
        "<s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "a",
        "b",
        "▁a",
        "▁ab",
    ]
    vocab = {text: index for index, text in enumerate(pieces)}
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab=vocab,
            merges=[("▁", "a"), ("▁a", "b")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    made.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(["<unk>", "<s>"])
    return made


def write_directory(path: Path, made: tokenizers.Tokenizer, **files: object) -> Path:
    made.save(str(path / "tokenizer.json"))
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("make", [byte_level_file, sentencepiece_file])
def test_a_directory_gives_the_ids_of_its_own_package(
    tmp_path: Path, make: Callable[[], tokenizers.Tokenizer]
) -> None:
    made = make()
    tokenizer = Tokenizer.from_directory(write_directory(tmp_path, made))
    made.no_truncation()
    for text in ("", "hello wo", "a ab  é\n🎈", "<bos>a<|im_end|> <tool>", "e\u0301 <s>ab"):
        for add_special in (True, False):
            expected = made.encode(text, add_special_tokens=add_special).ids
            assert tokenizer.encode(text, add_special=add_special) == expected
            for skip in (True, False):
                shown = made.decode(expected, skip_special_tokens=skip)
                assert tokenizer.decode(expected, skip_special=skip) == shown
        made.encode_special_tokens = True
        plain = made.encode(text, add_special_tokens=False).ids
        made.encode_special_tokens = False
        assert tokenizer.encode(text, add_special=False, parse_special=False) == plain


def test_the_files_beside_tokenizer_json_are_read(tmp_path: Path) -> None:
    made = byte_level_file()
    ids = {text: made.token_to_id(text) for text in ("<bos>", "<|im_end|>", "<tool>", "a")}
    write_directory(
        tmp_path,
        made,
        tokenizer_config={
            "bos_token": {"content": "<bos>"},
            "eos_token": None,
            "chat_template": [{"name": "default", "template": "one"}],
        },
        special_tokens_map={"eos_token": "<tool>"},
        generation_config={"eos_token_id": [ids["a"], 10**9]},
    )
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.bos_id == ids["<bos>"]
    assert tokenizer.add_bos
    assert tokenizer.eos_id == ids["<tool>"]
    assert tokenizer.eos_ids == {ids["<tool>"], ids["<|im_end|>"], ids["a"]}
    assert tokenizer.special_ids == {ids["<bos>"], ids["<|im_end|>"]}
    assert tokenizer.vocab_size == made.get_vocab_size()
    assert tokenizer.token_bytes(ids["<tool>"]) == b"<tool>"
    assert tokenizer.chat_template == "one"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "json"}')
    assert Tokenizer.from_directory(tmp_path).chat_template == "json"
    (tmp_path / "chat_template.jinja").write_text("two")
    assert Tokenizer.from_directory(tmp_path).chat_template == "two"


def test_directories_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json: is missing"):
        Tokenizer.from_directory(tmp_path)
    for text in ("", "{", "[]", '{"model": {"type": "BPE"}}', '{"version": "1.0"}'):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(ModelError, match=r"tokenizer\.json: cannot be read"):
            Tokenizer.from_directory(tmp_path)
    made = byte_level_file()
    made.decoder = tokenizers.decoders.CTC()
    with pytest.raises(ModelError, match="decoder CTC is not supported"):
        Tokenizer.from_directory(write_directory(tmp_path, made))
    for name in ("tokenizer_config", "generation_config"):
        write_directory(tmp_path, byte_level_file(), **{name: ["not an object"]})
        with pytest.raises(ModelError, match=name):
            Tokenizer.from_directory(tmp_path)
        (tmp_path / f"{name}.json").unlink()
    write_directory(tmp_path, byte_level_file(), generation_config={"eos_token_id": "2"})
    with pytest.raises(ModelError, match="eos_token_id"):
        Tokenizer.from_directory(tmp_path)
