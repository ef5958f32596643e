"""Streams of ids to text: nothing said before it is certain, and everything that `decode` says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import RequestError
from ridgeline.model.text.byte_level import byte_characters
from ridgeline.model.text.detokenizer import Detokenizer
from ridgeline.model.text.stops import StopMatcher
from ridgeline.model.text.tokenizer import Tokenizer

BPE = Tokenizer.from_gguf(
    {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [*byte_characters(), "Ã©", "Ġa", "<|im_end|>", "<x>"],
        "tokenizer.ggml.token_type": [1] * 258 + [3, 4],
        "tokenizer.ggml.merges": ["Ã ©", "Ġ a"],
    }
)
SPM_METADATA = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": [
        *("<unk>", "<s>", "</s>"),
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *("▁", "▁a", "b", "é", "▁▁", "🎈"),
    ],
    "tokenizer.ggml.token_type": [2, 3, 3, *([6] * 256), *([1] * 6)],
}
SPM = Tokenizer.from_gguf(SPM_METADATA)


def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    anything = st.integers(0, tokenizer.vocab_size - 1)
    often = st.integers(tokenizer.vocab_size - 8, tokenizer.vocab_size - 1)
    return st.lists(st.one_of(anything, often, st.sampled_from([195, 169, 240, 242, 162, 227])))


@settings(max_examples=300, deadline=None)
@given(st.data(), st.booleans(), st.booleans())
def test_a_stream_says_what_decode_says(
    data: st.DataObject, skip_special: bool, continues: bool
) -> None:
    for tokenizer in (BPE, SPM):
        ids = data.draw(ids_of(tokenizer))
        stream = Detokenizer(tokenizer, skip_special, continues=continues)
        said = "".join([stream.push(index) for index in ids]) + stream.flush()
        assert said == tokenizer.decode(ids, skip_special=skip_special, continues=continues)
        assert stream.flush() == ""


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8")))
def test_only_whole_characters_come_out(text: str) -> None:
    stream = Detokenizer(BPE)
    said = ""
    for index in BPE.encode(text, add_special=False, parse_special=False):
        said += stream.push(index)
        assert text.startswith(said)
    assert said == text


def test_half_a_character_is_held_back() -> None:
    stream = Detokenizer(SPM)
    balloon = [3 + byte for byte in "🎈".encode()]
    assert [stream.push(index) for index in balloon] == ["", "", "", "🎈"]
    assert stream.push(balloon[0]) == ""
    assert stream.push(SPM.encode("b")[-1]) == "\ufffdb"
    assert stream.push(balloon[0]) == ""
    assert stream.flush() == "\ufffd"


def test_the_dummy_space_goes_once() -> None:
    stream = Detokenizer(SPM)
    space, a = 259, 260
    assert [stream.push(index) for index in (1, space, a, space)] == ["", "", " a", " "]
    assert [Detokenizer(SPM, continues=True).push(space)] == [" "]


def test_an_id_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(RequestError, match="outside the vocabulary"):
        Detokenizer(BPE).push(BPE.vocab_size)


def first_stop(text: str, stops: list[str]) -> tuple[int, int, str] | None:
    """The definition: end, start and text of the stop string that is complete first."""
    ends = [
        (text.index(stop) + len(stop), text.index(stop), stop) for stop in stops if stop in text
    ]
    return min(ends, default=None)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.text("ab", max_size=4), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=5), max_size=4),
    st.booleans(),
)
def test_text_is_cut_at_the_first_stop_however_it_comes(
    pieces: list[str], stops: list[str], include: bool
) -> None:
    whole = "".join(pieces)
    found = first_stop(whole, stops)
    end = len(whole) if found is None else found[0] if include else found[1]
    matcher = StopMatcher(stops, include=include)
    said = ""
    for piece in pieces:
        said += matcher.push(piece)
        assert whole[:end].startswith(said)
    said += matcher.flush()
    assert said == whole[:end]
    assert matcher.matched == (None if found is None else found[2])
    assert matcher.push("more") == "" or matcher.matched is None


def test_no_more_is_held_back_than_must_be() -> None:
    matcher = StopMatcher(["STOP"])
    assert matcher.push("a ST") == "a "
    assert matcher.push("EP S") == "STEP "
    assert matcher.push("TOP and more") == ""
    assert matcher.matched == "STOP"
    assert StopMatcher([]).push("all") == "all"


def test_stop_strings_that_cannot_be() -> None:
    for stops in ([""], "stop", [3]):
        with pytest.raises(RequestError, match="stop"):
            StopMatcher(stops)  # type: ignore[arg-type]
