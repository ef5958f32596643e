"""Grammars of texts that stand within something else: in a JSON string, or before a closing mark.

A caller's Lark (llguidance's dialect) is read a token at a time and written again, with each text
in it as JSON writes it, or as it stands. All its rules become one terminal: llguidance takes the
longest match of a terminal and never goes back, and where JSON escapes a character two terminals
may begin alike. Rules that are recursive are no terminal; they stay rules, where no two are so.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Literal

from ridgeline.engine.constrain.quoted_regex import ANY_TEXT, exactly, json_text, quoted_regex
from ridgeline.engine.constrain.structured import MAX_GRAMMAR_CHARACTERS, MAX_REGEX_CHARACTERS
from ridgeline.errors import RequestError

Syntax = Literal["lark", "regex"]
_TOKEN = re.compile(
    r"""(?P<skip>(?:(?:\#|//)[^\n]*|[ \t]+)+)
    |(?P<newline>(?:\r?\n)+[ \t]*)
    |(?P<string>"(?:\\(?:["\\/bfnrt]|u[a-fA-F0-9]{4})|[^"\\\x00-\x1F\x7F])*"i?)
    |(?P<regex>/(?:\\.|[^/\\])+/[imslux]*)
    |(?P<name>!?[_?]?[a-z][_a-z0-9\-]*|_?[A-Z][_A-Z0-9\-]*)
    |(?P<directive>%[a-z]+)
    |(?P<number>[+-]?[0-9]+)
    |(?P<op>->|\.\.|[:|()\[\]{}*+?~&,=])
    |(?P<special><[^<>\s]+>)""",
    re.VERBOSE,
)
_NAMED = r"[ \t]*common\.(_?[A-Z_]+)[ \t]*(?:->[ \t]*(_?[A-Z][_A-Z0-9]*)[ \t]*)?(?=\r?\n|$)"
_NAMED_IMPORT, _IMPORT = re.compile(_NAMED), re.compile("%import" + _NAMED)
_COUNT = re.compile(r"[ \t]*[0-9]")
_ALIAS = re.compile(r"[ \t]*[_a-zA-Z][_a-zA-Z0-9\-]*")
_REPEATED = re.compile(r"[ \t]*[*+?{~]")
# llguidance's `common`, as far as it has characters that JSON escapes.
_COMMON = {
    "ESCAPED_STRING": r"\"([^\"\\]|\\.)*\"",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(\r?\n)+",
    "SH_COMMENT": r"#[^\n]*",
    "CPP_COMMENT": r"//[^\n]*",
    "C_COMMENT": r"/\*([^*]|\*+[^*/])*\*+/",
    "SQL_COMMENT": r"--[^\n]*",
}


@dataclass(frozen=True, slots=True)
class TextGrammar:
    """A grammar that a text keeps to. lark: the whole of it. quoted: the symbol of the text and the
    quote behind it, as JSON writes them. lines: what defines that. plain: the same of the text as
    it stands, its symbol `NAME_START`; empty: it cannot be one terminal, no_plain says why. field:
    the caller's name of it, for errors.
    """

    lark: str
    name: str
    quoted: str
    lines: tuple[str, ...]
    plain: tuple[str, ...]
    no_plain: str
    field: str

    def before(self, mark: str, closing: str | None) -> tuple[str, tuple[str, ...]]:
        """A symbol for a text that has not `mark` in it, and the lines that define it. closing: the
        text behind it, which the symbol takes in; None: something that is no text stands there.
        """
        if not self.plain:
            raise RequestError(
                self.field, f"{self.no_plain}, and this model writes texts between marks"
            )
        digest = hashlib.sha256(repr((mark, closing)).encode()).hexdigest()[:8].upper()
        symbol = f"{self.name}P_{digest}"
        bound = rf"({self.name}P_START & ~/(.|\n)*{exactly(mark)}(.|\n)*/)"
        behind = "" if closing is None else f" {json.dumps(closing)}"
        return symbol, (*self.plain, f"{symbol}: {bound}{behind}")

    def accepts(self, text: str) -> bool:
        """Whether the text is one of those that the quoted form lets through."""
        from llguidance import LLMatcher, LLTokenizer

        lark = "\n".join([f"start: {self.quoted}", *self.lines, ""])
        matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_lark(lark), log_level=0)
        given = ("".join(map(json_text, text)) + '"').encode("utf-8", "replace")
        return matcher.try_consume_tokens(list(given)) == len(given) and matcher.is_accepting()


def text_grammar(syntax: Syntax, definition: str, field: str) -> TextGrammar:
    """syntax "regex": the whole text matches. Raises RequestError, naming `field`, for what cannot
    stand within something else; whether llguidance takes it is not looked at, but for recursion.
    """
    most = MAX_REGEX_CHARACTERS if syntax == "regex" else MAX_GRAMMAR_CHARACTERS
    if not definition or len(definition) > most:
        raise RequestError(field, f"must be a text of 1 to {most} characters")
    lark = definition.strip("\n") + "\n"
    if syntax == "regex":
        lark = f"start: /{quoted_regex(definition, field, quotes=False)}/\n"
    name = f"T{hashlib.sha256(lark.encode('utf-8', 'replace')).hexdigest()[:8].upper()}_"
    folded = _Written(lark, field, f"{name}Q_", quotes=True)
    if not folded.why_not:
        close = f'{name}Q_WHOLE: {name}Q_START "\\""'
        plain = _Written(lark, field, f"{name}P_", quotes=False).lines
        return TextGrammar(lark, name, f"{name}Q_WHOLE", (*folded.lines, close), plain, "", field)
    rules = _Written(lark, field, None, quotes=True)
    _check_beginnings(rules, field)
    symbol = f"{name.lower()}rules"
    nested = f"{symbol}: %lark {{\n" + "\n".join(rules.lines) + "\n}"
    return TextGrammar(lark, name, f'{symbol} "\\""', (nested,), (), folded.why_not, field)


def _check_beginnings(rules: _Written, field: str) -> None:
    """Of rules that stay rules: where one terminal could go on with an escape, none may begin with
    one, or the longest match would be taken where there is no other.
    """
    from llguidance import LLMatcher, LLTokenizer

    def is_there(terminal: str) -> bool:
        lark = f"start: WHOLE\nWHOLE: {terminal}\n"
        grammar = LLMatcher.grammar_from_lark("\n".join([lark, *rules.terminals, ""]))
        matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
        if matcher.is_error():
            return False
        return any(matcher.compute_bitmask()[:32]) and not matcher.is_error()

    pieces = list(dict.fromkeys(rules.pieces))
    if len(pieces) > 500:
        raise RequestError(field, "is recursive, and has more than 500 texts and terminals")
    begins = {piece for piece in pieces if is_there(rf"({piece}) & /\\(.|\n)*/")}
    for piece in pieces if begins else ():
        if begins - {piece} and is_there(rf"({piece}) & (({piece}) /\\(.|\n)*/)"):
            raise RequestError(
                field,
                f"is {rules.why_not}, and {piece[:80]} may end where a character begins that JSON "
                "escapes: there it cannot be held to within a call. Write it without recursion",
            )


class _Written:
    """The grammar once more. prefix: of the names of terminals that all rules become; None: rules
    stay rules. quotes: texts are as JSON writes them. why_not: what keeps it from being terminals.
    pieces: the texts, regexes and terminals of rules; terminals: the lines of these alone.
    """

    def __init__(self, lark: str, field: str, prefix: str | None, *, quotes: bool) -> None:
        self._source, self._field = lark, field
        self._prefix, self._quotes = prefix, quotes
        self._at = 0
        self._out: list[str] = []
        self._imports = {found[2] or found[1]: found[1] for found in _IMPORT.finditer(lark)}
        self._last_string = ""
        self._uses: dict[str, set[str]] = {}
        self._defines = ""
        self._ignores = False
        self.pieces: list[str] = []
        self._run()
        self.lines = tuple(line for line in "".join(self._out).splitlines() if line.strip())
        ringed = self._recursive()
        self.why_not = "with %ignore" if self._ignores else "recursive" if ringed else ""
        self.terminals = self._terminal_lines()

    def _run(self) -> None:
        text, depth, line_start = self._source, list[str](), True
        while self._at < len(text):
            found = _TOKEN.match(text, self._at)
            if found is None:
                raise self._wrong(f"cannot be read at {text[self._at : self._at + 30]!r}")
            kind, token, self._at = str(found.lastgroup), found[0], found.end()
            if kind == "skip":
                self._out.append(" ")
                continue
            if kind == "newline":
                self._out.append("\n")
                line_start = True
                continue
            if kind == "directive":
                self._directive(token)
            elif kind == "special":
                raise self._wrong(f"{token}: a token is no text")
            elif kind == "name" and line_start and not depth:
                self._defines = token.lstrip("!?")
                if text.startswith("[", self._at):
                    raise self._wrong(f"attributes of {token!r} cannot be held to here")
                self._uses.setdefault(self._defines, set())
                self._out.append(self._name(token))
            elif kind in ("name", "string", "regex"):
                self._out.append(self._atom(kind, token))
            elif kind == "number":
                self._out.append(token)
            else:
                self._operator(token, depth)
            line_start = False
        if depth:
            raise self._wrong(f"has a {depth[-1]} that nothing closes")
        if not self._defines:
            raise self._wrong("has no rules")

    def _atom(self, kind: str, token: str) -> str:
        if kind == "name":
            bare = token.lstrip("!?")
            self._uses.setdefault(self._defines, set()).add(bare)
            if bare == bare.upper() and not self._in_terminal:
                self.pieces.append(bare)
            return self._name(token)
        written = self._string(token) if kind == "string" else self._regex(token)
        if written != '""' and not self._in_terminal:
            self.pieces.append(written)
        return written

    @property
    def _in_terminal(self) -> bool:
        return self._defines == self._defines.upper() and self._defines != "%ignore"

    def _operator(self, token: str, depth: list[str]) -> None:
        if token in "([{":
            depth.append(token)
        elif token in ")]}":
            if not depth or "([{".index(depth.pop()) != ")]}".index(token):
                raise self._wrong(f"has a {token} too many")
        elif token == "->":  # a name for trees, which there are none of here
            found = _ALIAS.match(self._source, self._at)
            if found is None:
                raise self._wrong("has a -> that names nothing")
            self._at = found.end()
            return
        elif token == ".." and not self._out[-1].lstrip("+-").isdecimal():
            self._range()
            return
        elif token == "=":
            raise self._wrong("attributes cannot be held to here")
        elif token == "~" and _COUNT.match(self._source, self._at) is None:
            self._complement()
            return
        self._out.append(token)

    def _complement(self) -> None:
        """Of all texts as they are written, not of all bytes."""
        found = _TOKEN.match(self._source, self._at)
        if found is not None and found.lastgroup == "skip":
            found = _TOKEN.match(self._source, found.end())
        if found is None or found.lastgroup not in ("name", "string", "regex"):
            raise self._wrong("has a ~ before what is no name, text or regex")
        if _REPEATED.match(self._source, found.end()):
            raise self._wrong("has a ~ and a count for the same: give it a name of its own")
        self._at = found.end()
        bound = f" & /{ANY_TEXT}/" if self._quotes else ""
        self._out.append(f"(~{self._atom(str(found.lastgroup), found[0])}{bound})")

    def _name(self, token: str) -> str:
        bare = token.lstrip("!?")
        if self._prefix is None:
            return token
        if bare in self._imports and not (self._quotes and self._imports[bare] in _COMMON):
            return self._imports[bare]
        if bare == "start":
            return f"{self._prefix}START"
        return f"{self._prefix}{'T' if bare == bare.upper() else 'R'}_{bare.upper()}"

    def _string(self, token: str) -> str:
        value = str(json.loads(token.removesuffix("i")))
        if not self._quotes or not value:
            return token
        if token.endswith("i"):
            return f"/{quoted_regex(exactly(value), self._field, 'i')}/i"
        return json.dumps("".join(map(json_text, value)), ensure_ascii=False)

    def _regex(self, token: str) -> str:
        body, _, flags = token[1:].rpartition("/")
        if set(flags) - set("ims"):
            raise self._wrong(f"flags of {token[:100]!r}: only i, m and s can be held to")
        written = quoted_regex(body, self._field, flags, quotes=self._quotes)
        return f"/{written}/{'i' if 'i' in flags else ''}"

    def _range(self) -> None:
        """A "a".."b", of which the first is written already."""
        while self._out and self._out[-1] == " ":
            self._out.pop()
        second = _TOKEN.match(self._source, self._at)
        if second is not None and second.lastgroup == "skip":
            second = _TOKEN.match(self._source, second.end())
        first = self._out.pop() if self._out else ""
        if not first.startswith('"') or second is None or second.lastgroup != "string":
            raise self._wrong('has a .. that is not between two characters in "')
        try:
            ends = [str(json.loads(one)) for one in (first, second[0])]
            ends[0] = str(json.loads(f'"{ends[0]}"')) if self._quotes else ends[0]
        except ValueError:
            ends = []
        if any(len(end) != 1 for end in ends) or ends != sorted(ends) or not ends:
            raise self._wrong("has a range of what are no two characters in order")
        self._at = second.end()
        codes = "-".join(f"\\x{{{ord(end):x}}}" for end in ends)
        self._out.append(self._atom("regex", f"/[{codes}]/"))

    def _directive(self, token: str) -> None:
        if token == "%ignore":
            self._ignores = True
            self._defines = "%ignore"
            self._out.append(token)
            return
        if token != "%import":
            raise self._wrong(f"{token} cannot be held to within a call")
        found = _NAMED_IMPORT.match(self._source, self._at)
        if found is None:
            raise self._wrong("imports what is not of common, one name a line")
        self._at = found.end()
        if self._quotes and found[1] in _COMMON:
            written = quoted_regex(_COMMON[found[1]], self._field)
            self._out.append(f"{self._name(found[2] or found[1])}: /{written}/")
            return
        self._out.append(f"%import common.{found[1]}")
        if self._prefix is None and found[2]:
            self._out.append(f" -> {found[2]}")

    def _recursive(self) -> bool:
        """Whether a rule is part of itself. Without Python's own recursion: chains may be long."""
        done: set[str] = set()
        for root in self._uses:
            path: list[tuple[str, list[str]]] = (
                [] if root in done else [(root, [*self._uses[root]])]
            )
            on_path = {root}
            while path:
                name, left = path[-1]
                if not left:
                    path.pop()
                    on_path.discard(name)
                    done.add(name)
                    continue
                one = left.pop()
                if one in on_path:
                    return True
                if one in self._uses and one not in done:
                    path.append((one, [*self._uses[one]]))
                    on_path.add(one)
        return False

    def _terminal_lines(self) -> tuple[str, ...]:
        """Definitions of terminals with the lines that go on with them, and imports."""
        kept, keeps = [], False
        for line in self.lines:
            head = re.match(r"(%import)|([_A-Z][_A-Z0-9\-]*)\s*:|([?!_a-z%])", line)
            if head is not None:
                keeps = head[3] is None
            if keeps:
                kept.append(line)
        return tuple(kept)

    def _wrong(self, why: str) -> RequestError:
        return RequestError(self._field, why)
