"""Grammars of texts within calls: what each form lets through is what the grammar has, no more."""

from __future__ import annotations

import json
import random
import re

import llguidance
import pytest

from ridgeline.engine.constrain.compile import Budget, Constraints
from ridgeline.engine.constrain.text_grammar import TextGrammar, text_grammar
from ridgeline.errors import RequestError
from ridgeline.llm import LLM
from serve.tiny import MODEL

BYTES = llguidance.LLTokenizer("byte")
PATCH = """start: begin hunk+ end
begin: "*** Begin" LF
end: "*** End" LF?
hunk: "*** Add: " /(.+)/ LF line+ -> add
    | "*** Cut: " /(.+)/ LF  // a comment
line: ("+" | "-") /(.*)/ LF

%import common.LF
"""
ARITHMETIC = """?start: sum
?sum: product | sum "+" product
?product: atom | product "*" atom
?atom: NUMBER | "-" atom | "(" sum ")"
%import common.NUMBER
%ignore / +/
"""
# Grammars with texts: of the grammar, and others.
CASES: list[tuple[str, str, list[str], list[str]]] = [
    (
        "lark",
        PATCH,
        [
            '*** Begin\n*** Add: a "b".py\n+x = "\\n"\n-</p>\n*** End\n',
            "*** Begin\n*** Cut: é😀\n*** End",
        ],
        ["*** Begin\n*** End", "*** Begin\n*** Add: a\n*** End\n", ""],
    ),
    ("lark", ARITHMETIC, ["1+2*(3-4)".replace("-", "*"), "1 + 2 * (3 + -4)"], ["(1", "1+", ""]),
    ("lark", 'start: "(" start? ")"', ["()", "((()))"], ["(()", ""]),
    ("lark", 'start: A+\nA: /[a-z"\\n]/ & ~B\nB: "q" | "\\""', ["a", "ab\nz"], ["q", '"', ""]),
    ("lark", 'start: "\\n" .. "\\"" "X\\t"i', ["\nx\t", '"X\t', "\x1fx\t"], ["#X\t", '"y\t']),
    ("lark", 'start: (A ",") ~ 1..2 [A]\nA: "\\\\"{2,3}', ["\\\\,", "\\\\,\\\\\\,\\\\"], ["\\,"]),
    (
        "lark",
        "start: ESCAPED_STRING (NL NUMBER)* WORD?\n%import common.ESCAPED_STRING\n"
        "%import common.NUMBER\n%import common.WORD\n%import common.NEWLINE -> NL\n",
        ['"a\\"b"', '"a"\n1.5\n\r\n2e3xy'],
        ['"', '"a"1'],
    ),
    ("regex", r"^[ab\"]{3}\n?$", ['ab"', 'ab"\n'], ["abc", "ab"]),
    ("regex", r".*", ["", 'a"\\\t/</q>'], ["a\nb"]),
    ("regex", r"(?s).*", ["", 'a"\\\t', "a\n\x00b"], []),
    ("regex", r"\s+|\d\W|[^\x00-\x7f]", ["\n\t\f ", '1"', "1\\", "é"], ["1a", "\v1", "e"]),
    ("regex", r"[^a]/[/]\x22(?i:n\n)", ['"//"n\n', '///"N\n'], ['a//"n\n', '"//"n\\n']),
    ("regex", "a[\\\\/] [\n]\n\\/", ["a/ \n\n/", "a\\ \n\n/"], ["a  \n\n/"]),
    ("regex", r"(?i)k\"[^\\]\\|(?P<x>[[:alpha:]--b]|\u{e9})", ['K""\\', 'k"\n\\', "c", "É"], ["b"]),
]


def consumes(lark: str, text: str) -> bool:
    """Whether the whole text is a sentence of the grammar."""
    matcher = llguidance.LLMatcher(BYTES, llguidance.LLMatcher.grammar_from_lark(lark))
    assert not matcher.get_error(), matcher.get_error()
    ids = list(text.encode())
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def in_json(grammar: TextGrammar) -> str:
    return "\n".join([f'start: "<\\"" {grammar.quoted} ">"', *grammar.lines, ""])


def between_marks(grammar: TextGrammar, closing: str | None) -> str:
    symbol, lines = grammar.before("</p>", closing)
    behind = '"\\n</p>"' if closing is None else ""
    return "\n".join([f'start: "<p>" {symbol} {behind} ">"', *lines, ""])


@pytest.mark.parametrize(("syntax", "definition", "inside", "outside"), CASES)
def test_each_form_has_the_texts_of_the_grammar(
    syntax: str, definition: str, inside: list[str], outside: list[str]
) -> None:
    grammar = text_grammar(syntax, definition, "f")  # type: ignore[arg-type]
    quoted = in_json(grammar)
    for text in (*inside, *outside):
        known = text in inside
        assert consumes(grammar.lark, text) == known, text
        assert grammar.accepts(text) == known, text
        assert consumes(quoted, f"<{json.dumps(text, ensure_ascii=False)}>") == known, text
        if grammar.plain:
            plain = between_marks(grammar, "\n</p>")
            assert consumes(plain, f"<p>{text}\n</p>>") == (known and "</p>" not in text), text


def drawn(lark: str, chance: random.Random, most: int = 400) -> str | None:
    """Bytes drawn at random among those that are allowed; None: it grew too long."""
    matcher = llguidance.LLMatcher(BYTES, llguidance.LLMatcher.grammar_from_lark(lark))
    found = bytearray()
    while not matcher.is_stopped() and len(found) < most:
        mask = matcher.compute_bitmask()
        allowed = [i for i in range(257) if mask[i // 8] >> (i % 8) & 1]
        assert allowed, "nothing may follow, and nothing has ended"
        if BYTES.eos_token in allowed:
            return found.decode()
        ways = [i for i in allowed if chr(i) in '"</p>\\n\n' or chance.random() < 0.2] or allowed
        token = chance.choice(ways)
        assert matcher.consume_token(token)
        found.append(token)
    return found.decode() if matcher.is_stopped() and matcher.is_accepting() else None


@pytest.mark.parametrize(("syntax", "definition"), [case[:2] for case in CASES])
def test_whatever_is_drawn_is_of_the_grammar(syntax: str, definition: str) -> None:
    """However adversarial what draws is: it likes quotes, marks and escapes best."""
    grammar = text_grammar(syntax, definition, "f")  # type: ignore[arg-type]
    chance = random.Random(definition)
    count = 0
    for _ in range(12):
        written = drawn(in_json(grammar), chance)
        if written is not None:
            text = json.loads(written[1:-1])
            assert consumes(grammar.lark, text), text
            if syntax == "regex" and "(?P" not in definition:
                assert re.fullmatch(definition, text), text
            count += 1
        written = drawn(between_marks(grammar, None), chance) if grammar.plain else None
        if written is not None:
            text = written[3:-6]
            assert "</p>" not in text
            assert consumes(grammar.lark, text), text
            count += 1
    assert count


@pytest.mark.parametrize(
    ("definition", "why"),
    [
        ("", "1 to"),
        ("start: <[1]>", "a token is no text"),
        ("start: %json {}", "%json"),
        ('start: %lark {\nstart: "a"\n}', "%lark"),
        ('%llguidance {"no_forcing": true}\nstart: "a"', "%llguidance"),
        ('start: "a"\n}\nr0: "b"', "} too many"),
        ('start: ("a"', "nothing closes"),
        ('start[lazy]: "a"', "attributes"),
        ("start: @other", "cannot be read"),
        ("start: /a\\bc/", "\\\\b"),
        ("start: /a^b/", "anchor"),
        ("start: /a/x", "flags"),
        ("start: /(?x)a/", "flags"),
        ("start: /(?=a)b/", "group"),
        ("start: /(?-u:a)/", "flags"),
        ('start: ~("a" | "b")', "~"),
        ("start: ~/b/+", "name of its own"),
        ('start: "b".."a"', "in order"),
        ("start: A\n%import other.A", "common"),
        ('start: "(" s* ")"\ns: start | /[a-z\\n]+/ | "\\""', "recursive"),
        ("start: " + "/" + "(" * 300 + "a" + ")" * 300 + "/", "too deeply"),
    ],
)
def test_what_cannot_be_held_to_is_refused(definition: str, why: str) -> None:
    with pytest.raises(RequestError, match=why) as refused:
        text_grammar("lark", definition, "tools.0.format.definition")
    assert refused.value.field == "tools.0.format.definition"


def test_recursion_between_marks_is_refused() -> None:
    with pytest.raises(RequestError, match="recursive, and this model writes texts between marks"):
        text_grammar("lark", ARITHMETIC.replace("%ignore / +/", ""), "f").before("</p>", None)
    with pytest.raises(RequestError, match="%ignore"):
        text_grammar("lark", 'start: "a" "b"\n%ignore / +/', "f").before("</p>", None)


def test_a_model_checks_them_under_its_budget() -> None:
    llm = LLM(MODEL, threads=1)
    constraints = Constraints(llm.tokenizer, 256)
    kept = constraints.text("lark", PATCH, "a")
    again = constraints.text("lark", PATCH, "b")
    assert (kept.lines, again.field) == (again.lines, "b")
    for syntax, definition in (
        ("lark", 'start: "a" missing'),
        ("lark", 'other: "a"'),
        ("regex", "("),
        ("regex", "[z-a]"),
    ):
        with pytest.raises(RequestError) as refused:
            constraints.text(syntax, definition, "there")  # type: ignore[arg-type]
        assert refused.value.field == "there"
    brief = Constraints(llm.tokenizer, 256, Budget(seconds=0.01))
    long = "start: " + " | ".join(f"/[{chr(97 + i % 9)}{i}]/" for i in range(9999))
    with pytest.raises(RequestError, match="takes more than"):
        brief.text("lark", long, "f")
