"""`SamplingParams`: every field is checked, contradictions are told; and what becomes of them in a
model's token ids.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from ridgeline.engine.request import SamplingParams
from ridgeline.engine.row_sampling import RowSamplings
from ridgeline.errors import RequestError
from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.step import RowSampling

WRONG: list[tuple[str, Any]] = [
    ("n", 0),
    ("n", True),
    ("best_of", 0),
    ("best_of", 2000),
    ("temperature", -0.1),
    ("temperature", float("nan")),
    ("temperature", "1"),
    ("dynatemp_range", -1),
    ("dynatemp_exponent", -1),
    ("top_n_sigma", -0.5),
    ("top_k", 1.5),
    ("top_k", -2),
    ("typical_p", 0),
    ("typical_p", 1.1),
    ("top_p", 0.0),
    ("min_p", 2),
    ("xtc_probability", 1.5),
    ("xtc_threshold", -0.1),
    ("mirostat", 1),
    ("mirostat", 3),
    ("mirostat_tau", 0),
    ("mirostat_eta", 2),
    ("repetition_penalty", 0),
    ("frequency_penalty", float("inf")),
    ("presence_penalty", 101),
    ("dry_multiplier", -1),
    ("dry_base", 0.9),
    ("dry_allowed_length", 0),
    ("penalty_last_n", -2),
    ("dry_penalty_last_n", -2),
    ("dry_sequence_breakers", "\n"),
    ("dry_sequence_breakers", [""]),
    ("dry_sequence_breakers", ["x"] * 100),
    ("dry_sequence_breakers", ["x" * 100]),
    ("no_repeat_ngram_size", -1),
    ("logit_bias", [1, 2]),
    ("logit_bias", {"5": 1.0}),
    ("logit_bias", {5: 101.0}),
    ("logit_bias", {-1: 1.0}),
    ("logit_bias", dict.fromkeys(range(5000), 1.0)),
    ("bad_words", "word"),
    ("bad_words", [""]),
    ("bad_words", [[]]),
    ("bad_words", [[-1]]),
    ("bad_words", [5]),
    ("bad_words", ["x"] * 2000),
    ("bad_words", [list(range(100))]),
    ("allowed_token_ids", []),
    ("allowed_token_ids", [1.5]),
    ("allowed_token_ids", 7),
    ("min_tokens", -1),
    ("seed", -1),
    ("seed", 2**64),
    ("max_tokens", 0),
    ("stop", [""]),
    ("stop", [5]),
    ("stop", 5),
    ("stop", ["x"] * 100),
    ("stop", ["x" * 5000]),
    ("stop_regex", "a*"),
    ("stop_regex", "("),
    ("stop_regex", r"(a)\1"),
    ("stop_regex", "a" * 2000),
    ("stop_regex", ["(a{100}){100}"]),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", "ab"),
    ("ignore_eos", 1),
    ("skip_special_tokens", None),
    ("include_stop_str_in_output", "no"),
    ("logprobs", 100_000),
    ("prompt_logprobs", -1),
    ("structured_outputs", {"regex": "a"}),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda x: str(x)[:20])
def test_a_wrong_parameter_is_named(field: str, value: object) -> None:
    with pytest.raises(RequestError) as refused:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert refused.value.field == field
    assert len(str(refused.value)) < 300


def test_every_field_is_checked() -> None:
    assert {f.name for f in fields(SamplingParams)} == {field for field, _ in WRONG}


@pytest.mark.parametrize(
    ("field", "together"),
    [
        ("min_tokens", {"min_tokens": 5, "max_tokens": 4}),
        ("best_of", {"n": 3, "best_of": 2}),
        ("best_of", {"best_of": 2, "temperature": 0}),
        ("dynatemp_range", {"dynatemp_range": 0.5, "temperature": 0}),
        ("typical_p", {"typical_p": 0.5, "temperature": 0}),
        ("xtc_probability", {"xtc_probability": 0.5, "temperature": 0}),
        ("mirostat", {"mirostat": 2, "temperature": 0}),
        ("mirostat", {"mirostat": 2, "top_k": 40}),
        ("mirostat", {"mirostat": 2, "top_p": 0.9}),
        ("mirostat", {"mirostat": 2, "min_p": 0.1}),
        ("mirostat", {"mirostat": 2, "typical_p": 0.9}),
        ("mirostat", {"mirostat": 2, "top_n_sigma": 1}),
        ("mirostat", {"mirostat": 2, "xtc_probability": 1}),
    ],
)
def test_a_contradiction_is_told(field: str, together: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as refused:
        SamplingParams(**together)
    assert refused.value.field == field


def test_what_has_no_effect_by_its_meaning_is_taken() -> None:
    SamplingParams(temperature=0, top_k=5, top_p=0.9, min_p=0.1, top_n_sigma=1.0)
    SamplingParams(mirostat=2, top_k=-1)


# ---- in token ids

PIECES = [b"<s>", b"</s>", b"a", b"b", b" a", b"\n", b"x:\n", b"\xff", b"c"]


def tokenizer() -> Tokenizer:
    """One byte a token, and " a" as one."""

    def encode(text: str, add_special: bool, parse_special: bool) -> list[int]:
        assert not add_special
        assert not parse_special
        ids = []
        while text:
            piece = next((p for p in (" a", "a", "b", "c", "\n") if text.startswith(p)), None)
            if piece is None:
                return []
            ids.append(PIECES.index(piece.encode()))
            text = text[len(piece) :]
        return ids

    return Tokenizer(
        vocab_size=len(PIECES),
        bos_id=0,
        eos_id=1,
        unknown_id=None,
        pad_id=None,
        eos_ids=frozenset({1}),
        special_ids=frozenset({0, 1}),
        add_bos=False,
        add_eos=False,
        strips_leading_space=False,
        chat_template=None,
        _encode=encode,
        _text=lambda i: PIECES[i].decode("utf-8", "replace"),
        _bytes=lambda i: PIECES[i],
    )


@pytest.fixture
def samplings() -> RowSamplings:
    return RowSamplings(tokenizer(), 12)  # three more rows than the tokenizer knows


def test_defaults_are_off(samplings: RowSamplings) -> None:
    row = samplings.row(SamplingParams(), 7, 3)
    assert row == RowSampling(temperature=1.0, seed=7, num_prompt=3)


def test_words_breakers_and_stops_become_ids(samplings: RowSamplings) -> None:
    params = SamplingParams(
        bad_words=["a", "ab", [8, 2]],
        dry_multiplier=0.8,
        dry_sequence_breakers=["\n", "q"],
        logit_bias={4: -1, 2: 1},
        allowed_token_ids=[5, 2, 5],
        min_tokens=4,
        stop_token_ids=[8],
    )
    row = samplings.row(params, 0, 0)
    assert row.bad_words == ((2,), (4,), (2, 3), (4, 3), (8, 2))
    assert row.dry_breakers == (5, 6)
    assert row.logit_bias == ((2, 1), (4, -1))
    assert row.allowed_ids == (2, 5)
    assert (row.stop_ids, row.min_tokens) == ((1, 8), 4)
    assert samplings.stop_ids(params) == {1, 8}
    assert samplings.stop_ids(SamplingParams(ignore_eos=True)) == frozenset()


def test_mirostat_begins_at_twice_tau(samplings: RowSamplings) -> None:
    row = samplings.row(SamplingParams(mirostat=2, mirostat_tau=3.0), 0, 0)
    assert (row.mirostat_tau, row.mirostat_mu) == (3.0, 6.0)


def test_best_of_needs_the_tokens_own_logprobs(samplings: RowSamplings) -> None:
    assert samplings.row(SamplingParams(best_of=3), 0, 0).num_logprobs == 0
    assert samplings.row(SamplingParams(best_of=3, logprobs=2), 0, 0).num_logprobs == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stop_token_ids", [12]),
        ("logit_bias", {12: 1.0}),
        ("bad_words", [[1, 99]]),
        ("bad_words", ["qq"]),
        ("allowed_token_ids", [12]),
    ],
)
def test_an_id_that_the_model_lacks_is_named(
    samplings: RowSamplings, field: str, value: object
) -> None:
    with pytest.raises(RequestError) as refused:
        samplings.row(SamplingParams(**{field: value}), 0, 0)  # type: ignore[arg-type]
    assert refused.value.field == field
