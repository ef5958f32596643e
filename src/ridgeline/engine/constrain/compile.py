"""From what a caller asks for to a grammar that can be followed: under a budget, before a request
is queued.

llguidance counts its own work and gives up at limits; on top stands a limit by the clock. Its work
cannot be interrupted, so what is over the clock is refused at once and ends at llguidance's own
limit in one of few threads: more of it is refused with Overloaded, and never piles up.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ridgeline.engine.constrain.follow import Follower
from ridgeline.engine.constrain.schema import (
    check_lark,
    check_schema,
    placed,
    spaced,
    subschemas,
)
from ridgeline.engine.constrain.structured import StructuredOutputs
from ridgeline.engine.constrain.text_grammar import Syntax, TextGrammar, text_grammar
from ridgeline.engine.constrain.vocabulary import llguidance_tokenizer
from ridgeline.errors import Overloaded, RequestError
from ridgeline.model.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

# Between the parts of JSON, unless said otherwise: a space, or a line break and indentation.
# Without a bound a weak model goes on with line breaks until its tokens run out.
WHITESPACE = r"( |\n[ \t]{0,12})"
# Characters of texts' grammars that are kept as they are written elsewhere.
MAX_TEXTS = 2**20


@dataclass(frozen=True, slots=True)
class Budget:
    """seconds: by the clock, of one grammar. threads: that compile. cache_bytes: of grammars that
    are kept, estimated from their texts. lexer_states: llguidance's, of 1 to 2 kB each.
    """

    seconds: float = 5.0
    threads: int = 2
    cache_bytes: int = 64 * 2**20
    lexer_states: int = 20_000
    grammar_symbols: int = 200_000


@dataclass(frozen=True, slots=True)
class Grammar:
    """Compiled. text: llguidance's form of it, from which it can be compiled again anywhere."""

    text: str
    _matcher: LLMatcher
    _num_tokens: int

    def follow(self) -> Follower:
        """At its beginning, for one answer."""
        return Follower(self._matcher.deep_copy(), self._num_tokens)


class Constraints:
    """The grammars of one model. Safe to call from several threads.

    vocab_size: that of the logits.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, budget: Budget | None = None) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._budget = budget or Budget()
        self._lock = threading.Lock()
        self._bridge_lock = threading.Lock()
        self._bridge: LLTokenizer | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._known: OrderedDict[str, tuple[Grammar, int]] = OrderedDict()
        self._num_bytes = 0
        self._texts: OrderedDict[tuple[Syntax, str], TextGrammar] = OrderedDict()

    def compile(self, asked: StructuredOutputs) -> Grammar:
        """Raises RequestError for what is not supported (with the JSON pointer, of a schema) or
        takes too long, Overloaded while too many others compile.
        """
        field = _field_of(asked)
        schema = asked.schema_text() if asked.json is not None else None
        return self._compiled(lambda: _text_of(asked), _key_of(asked), field, schema)

    def restore(self, text: str) -> Grammar:
        """A grammar of which `Grammar.text` is kept."""
        return self._compiled(lambda: text, text, "structured_outputs")

    def text(self, syntax: Syntax, definition: str, field: str) -> TextGrammar:
        """A grammar of a text that stands within an answer, as it can be written there; its own
        faults are found here, under the same budget. Raises as `compile` does, naming `field`.
        """
        from llguidance import LLMatcher

        key = (syntax, definition)
        with self._lock:
            found = self._texts.get(key)
        if found is None:
            made: list[TextGrammar] = []

            def text_of() -> str:
                made.append(text_grammar(syntax, definition, field))
                return LLMatcher.grammar_from_lark(made[0].lark)

            self._compiled(text_of, None, field)
            found = made[0]
            with self._lock:
                self._texts[key] = found
                while sum(len(one.lark) for one in self._texts.values()) > MAX_TEXTS:
                    self._texts.popitem(last=False)
        return replace(found, field=field)

    def _compiled(
        self, text_of: Any, key: str | None, field: str, schema: str | None = None
    ) -> Grammar:
        """key: None: it is not kept."""
        with self._lock:
            if key is not None and key in self._known:
                self._known.move_to_end(key)
                return self._known[key][0]
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._budget.threads, "ridgeline-grammar")
        self._tokenizer_of()  # once per model, and not on anybody's budget
        future: Future[Grammar] = self._pool.submit(lambda: self._build(text_of(), field, schema))
        try:
            grammar = future.result(self._budget.seconds)
        except FutureTimeout:
            if future.cancel():
                raise Overloaded(
                    "too many grammars are being compiled; come back", self._budget.seconds
                ) from None
            raise RequestError(
                field, f"takes more than {self._budget.seconds:g} s to compile; make it simpler"
            ) from None
        if key is not None:
            self._keep(key, grammar)
        return grammar

    def _keep(self, key: str, grammar: Grammar) -> None:
        # A lexer and a parser take tens of bytes for each of the text, and there is a least.
        size = 64 * 1024 + 100 * len(grammar.text)
        with self._lock:
            if key in self._known or size > self._budget.cache_bytes:
                return
            self._known[key] = grammar, size
            self._num_bytes += size
            while self._num_bytes > self._budget.cache_bytes:
                _key, (_grammar, freed) = self._known.popitem(last=False)
                self._num_bytes -= freed

    def _tokenizer_of(self) -> LLTokenizer:
        with self._bridge_lock:
            if self._bridge is None:
                self._bridge = llguidance_tokenizer(self._tokenizer, self._vocab_size)
            return self._bridge

    def _build(self, text: str, field: str, schema: str | None = None) -> Grammar:
        """schema: of which `text` is the grammar; its refusal says where in it the fault is."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer_of(), text, log_level=0, limits=self._limits())
        if not matcher.is_error():
            warnings = matcher.get_grammar_warnings()
            if warnings:
                raise RequestError(field, f"would not be kept to: {warnings[0][:500]}")
            mask = matcher.deep_copy()
            mask.compute_bitmask()  # the first is the dearest, and shows what cannot begin
            if mask.is_error():
                matcher = mask
        if matcher.is_error():
            reason = _first_lines(matcher.get_error())
            if schema is not None:
                reason = f"{self._place_of(json.loads(schema), reason)}: {reason}"
            raise RequestError(field, reason)
        return Grammar(text, matcher, min(self._tokenizer.vocab_size, self._vocab_size))

    def _place_of(self, schema: Any, reason: str) -> str:
        """The pointer of the innermost schema that llguidance refuses for this very reason. As
        far as a fifth of the budget lasts: what has taken that is big, and not wrong in a place.
        """
        until = time.monotonic() + self._budget.seconds / 5
        place, left, seen = "#", subschemas(schema, "#"), {"#"}
        while left:
            pointer, _part = left.pop()
            if pointer in seen or time.monotonic() > until:
                continue
            seen.add(pointer)
            try:
                if self._refusal(placed(schema, pointer)) == reason:
                    place, left = pointer, subschemas(schema, pointer)
            except (RecursionError, ValueError, KeyError):
                break  # values nested deeper than Python follows: the place so far
        return place

    def _refusal(self, schema: dict[str, Any]) -> str | None:
        from llguidance import LLMatcher

        strict: Any = {"lenient": False, "coerce_one_of": False}
        text = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=strict)
        matcher = LLMatcher(self._tokenizer_of(), text, log_level=0, limits=self._limits())
        return _first_lines(matcher.get_error()) if matcher.is_error() else None

    def _limits(self) -> LLParserLimits:
        from llguidance import LLParserLimits

        return LLParserLimits(
            max_lexer_states=self._budget.lexer_states,
            max_grammar_size=self._budget.grammar_symbols,
            verbose_errors=False,
        )


def _field_of(asked: StructuredOutputs) -> str:
    kinds = ("json", "regex", "choice", "grammar")
    name = next((k for k in kinds if getattr(asked, k) is not None), "json_object")
    return f"structured_outputs.{name}"


def _key_of(asked: StructuredOutputs) -> str:
    is_json = asked.json_object or asked.json is not None
    value = asked.schema_text() if is_json else asked.regex or asked.grammar or asked.choice
    return repr((_field_of(asked), value, asked.disable_any_whitespace, asked.whitespace_pattern))


def _text_of(asked: StructuredOutputs) -> str:
    from llguidance import LLMatcher

    field = _field_of(asked)
    if asked.json_object or asked.json is not None:
        schema = asked.schema_text()
        check_schema(schema, field)
        if schema == "false":
            raise RequestError(field, "#: allows no answer at all")
        schema = "{}" if schema == "true" else schema  # llguidance puts its options in an object
        options: dict[str, Any] = {"lenient": False, "coerce_one_of": False}
        options["whitespace_flexible"] = not asked.disable_any_whitespace
        if not asked.disable_any_whitespace:
            options["whitespace_pattern"] = asked.whitespace_pattern or WHITESPACE
        try:
            return LLMatcher.grammar_from_json_schema(schema, overrides=options)  # type: ignore[arg-type]
        except ValueError as error:  # values that are nested deeper than it reads
            raise RequestError(field, f"#: cannot be read: {str(error)[:200]}") from None
    if asked.regex is not None:
        return LLMatcher.grammar_from_regex(asked.regex)
    if asked.choice is not None:
        texts = " | ".join(json.dumps(text) for text in dict.fromkeys(asked.choice))
        return LLMatcher.grammar_from_lark(f"start: {texts}\n")
    grammar = asked.grammar
    assert grammar is not None
    if grammar.lstrip().startswith("{"):
        raise RequestError(field, "must be Lark; llguidance's JSON form is not taken")
    if re.search(r"\blenient\b|x-guidance", grammar):
        raise RequestError(field, "may not ask for leniency")
    check_lark(grammar, field)
    return LLMatcher.grammar_from_lark(spaced(grammar, WHITESPACE))


def _first_lines(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    # Where llguidance says that it was names a reference that it follows, and no other place.
    text = re.sub(r" while processing json-schema:\S*", "", " ".join(lines))
    return text[:500] or "cannot be compiled"
