"""What a request asks for, in a model's token ids: `SamplingParams` to `RowSampling`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from ridgeline.engine.request import MAX_BAD_WORD_TOKENS, SamplingParams
from ridgeline.errors import RequestError
from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.step import RowSampling

# Sequence breakers that are remembered; each is looked for in the text of every token.
_MAX_KNOWN_BREAKERS = 256


class RowSamplings:
    """For one model. Owns what it has learnt of the vocabulary's texts; may serve all requests.

    vocab_size: that of the logits; a tokenizer may know fewer ids.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._texts: tuple[bytes, list[int]] | None = None
        self._breakers: dict[str, tuple[int, ...]] = {}

    def stop_ids(self, params: SamplingParams) -> frozenset[int]:
        """Tokens that end the answer."""
        ids = frozenset(params.stop_token_ids)
        return ids if params.ignore_eos else ids | self._tokenizer.eos_ids

    def row(self, params: SamplingParams, seed: int, num_prompt: int) -> RowSampling:
        """Raises RequestError for an id that the model lacks, or a word that is no token."""
        words = [ids for word in params.bad_words for ids in self._word(word)]
        stops = frozenset[int]()
        if params.min_tokens > 0:  # an end that is ignored is no part of the answer either
            stops = frozenset(params.stop_token_ids) | self._tokenizer.eos_ids
        allowed = params.allowed_token_ids
        self._check("stop_token_ids", params.stop_token_ids)
        self._check("logit_bias", params.logit_bias)
        self._check("bad_words", [token for word in words for token in word])
        self._check("allowed_token_ids", allowed or ())
        return RowSampling(
            logit_bias=tuple(sorted(params.logit_bias.items())),
            repetition_penalty=params.repetition_penalty,
            frequency_penalty=params.frequency_penalty,
            presence_penalty=params.presence_penalty,
            penalty_last_n=params.penalty_last_n,
            dry_multiplier=params.dry_multiplier,
            dry_base=params.dry_base,
            dry_allowed_length=params.dry_allowed_length,
            dry_last_n=params.dry_penalty_last_n,
            dry_breakers=self._all_breakers(params) if params.dry_multiplier > 0 else (),
            no_repeat_ngram=params.no_repeat_ngram_size,
            bad_words=tuple(dict.fromkeys(words)),
            allowed_ids=None if allowed is None else tuple(sorted(set(allowed))),
            stop_ids=tuple(sorted(stops)),
            min_tokens=params.min_tokens,
            temperature=params.temperature,
            dynatemp_range=params.dynatemp_range,
            dynatemp_exponent=params.dynatemp_exponent,
            top_n_sigma=params.top_n_sigma,
            top_k=max(params.top_k, 0),
            typical_p=params.typical_p,
            top_p=params.top_p,
            min_p=params.min_p,
            xtc_probability=params.xtc_probability,
            xtc_threshold=params.xtc_threshold,
            mirostat_tau=params.mirostat_tau if params.mirostat else 0.0,
            mirostat_eta=params.mirostat_eta,
            mirostat_mu=2 * params.mirostat_tau if params.mirostat else 0.0,
            seed=seed,
            num_prompt=num_prompt,
            num_logprobs=_count(params),
            is_constrained=params.structured_outputs is not None,
            num_prompt_logprobs=-1 if params.prompt_logprobs is None else params.prompt_logprobs,
        )

    def _check(self, field: str, ids: Iterable[int]) -> None:
        for token_id in ids:
            if token_id >= self._vocab_size:
                raise RequestError(
                    field, f"token id {token_id}; the vocabulary has {self._vocab_size}"
                )

    def _word(self, word: str | Iterable[int]) -> list[tuple[int, ...]]:
        """The token sequences of a word: as a text begins with it, and after a space."""
        if not isinstance(word, str):
            return [tuple(word)]
        bare = word.lstrip(" ") or word
        cuts = [
            tuple(self._tokenizer.encode(text, add_special=False, parse_special=False))
            for text in dict.fromkeys((bare, f" {bare}"))
        ]
        if not all(0 < len(cut) <= MAX_BAD_WORD_TOKENS for cut in cuts):
            raise RequestError(
                "bad_words",
                f"{word[:40]!r} is no token, or more than {MAX_BAD_WORD_TOKENS}",
            )
        return cuts

    def _all_breakers(self, params: SamplingParams) -> tuple[int, ...]:
        found: set[int] = set()
        for breaker in dict.fromkeys(params.dry_sequence_breakers):
            if breaker not in self._breakers:
                if len(self._breakers) >= _MAX_KNOWN_BREAKERS:
                    self._breakers.clear()
                self._breakers[breaker] = self._tokens_with(breaker)
            found.update(self._breakers[breaker])
        return tuple(sorted(found))

    def _tokens_with(self, text: str) -> tuple[int, ...]:
        """Ids of the tokens that have this text in them; one search over all of them joined."""
        if self._texts is None:
            known = min(self._tokenizer.vocab_size, self._vocab_size)
            starts, pieces, at = [], [], 0
            for token_id in range(known):
                piece = self._tokenizer.token_bytes(token_id)
                starts.append(at)
                pieces.append(piece)
                at += len(piece) + 1
            self._texts = (b"\xff".join(pieces), starts)  # no UTF-8 text has this byte
        joined, starts = self._texts
        try:
            wanted = text.encode()
        except UnicodeEncodeError:
            raise RequestError("dry_sequence_breakers", f"{text!r} is not text") from None
        found: list[int] = []
        at = joined.find(wanted)
        while at >= 0:
            token_id = bisect_right(starts, at) - 1
            found.append(token_id)
            if token_id + 1 == len(starts):
                break
            at = joined.find(wanted, starts[token_id + 1])
        return tuple(found)


def _count(params: SamplingParams) -> int:
    """best_of compares answers by the log-probabilities of their own tokens."""
    if params.logprobs is not None:
        return params.logprobs
    return 0 if params.chooses else -1
