"""Stop strings and stop patterns: Python's `re` as the oracle, any cutting of the text, and bounds
on what a hostile pattern may cost.
"""

from __future__ import annotations

import random
import re

import pytest

from ridgeline.errors import RequestError
from ridgeline.model.text.stop_regex import MAX_STATES, StopRegex
from ridgeline.model.text.stops import StopMatcher


def pushed(matcher: StopMatcher, text: str, rng: random.Random) -> str:
    """What comes out of a text that comes in pieces."""
    out, at = "", 0
    while at < len(text):
        size = rng.randint(1, 4)
        out += matcher.push(text[at : at + size])
        at += size
    return out + matcher.flush()


def earliest(patterns: list[str], text: str) -> tuple[int, int] | None:
    """Begin and end of the match that is complete first; of those, of the one that began first."""
    for end in range(1, len(text) + 1):
        for begin in range(end):
            if any(re.fullmatch(p, text[begin:end]) for p in patterns):
                return begin, end
    return None


def pattern(rng: random.Random, depth: int = 0) -> str:
    kind = rng.random()
    if depth > 3 or kind < 0.45:
        return rng.choice(["a", "b", "c", ".", "[ab]", "[^a]", r"\d", r"\W", "[a-c1]", r"\n", "x"])
    if kind < 0.6:
        return f"({pattern(rng, depth + 1)}|{pattern(rng, depth + 1)})"
    if kind < 0.8:
        return pattern(rng, depth + 1) + pattern(rng, depth + 1)
    times = rng.choice(["*", "+", "?", "{2}", "{1,3}", "{2,}", "*?", "{,2}"])
    return f"(?:{pattern(rng, depth + 1)}){times}"


def test_patterns_are_pythons() -> None:
    rng = random.Random(1)
    found = 0
    for _ in range(500):
        wanted = [pattern(rng) for _ in range(rng.randint(1, 2))]
        text = "".join(rng.choice("abcx1\n") for _ in range(16))
        try:
            matcher = StopMatcher([], patterns=wanted)
        except RequestError:
            assert any(re.fullmatch(p, "") for p in wanted)
            continue
        best = earliest(wanted, text)
        out = pushed(matcher, text, rng)
        assert out == (text if best is None else text[: best[0]]), (wanted, text)
        assert (matcher.matched is None) == (best is None)
        found += best is not None
    assert found > 100


def test_strings_are_the_earliest() -> None:
    rng = random.Random(2)
    for _ in range(500):
        stops = ["".join(rng.choice("ab") for _ in range(rng.randint(1, 5))) for _ in range(3)]
        text = "".join(rng.choice("abc") for _ in range(14))
        best = earliest([re.escape(s) for s in stops], text)
        for include in (False, True):
            matcher = StopMatcher(stops, include=include)
            out = pushed(matcher, text, rng)
            end = len(text) if best is None else best[1] if include else best[0]
            assert out == text[:end], (stops, text)
            assert matcher.matched == (None if best is None else text[slice(*best)])


def test_strings_and_patterns_together() -> None:
    matcher = StopMatcher(["abcd"], patterns=["b"])
    assert matcher.push("xabcd") == "xa"
    assert matcher.matched == "b"
    matcher = StopMatcher(["ab"], patterns=["[a-c]{2}x?b"])
    assert matcher.push("ca") == ""
    assert matcher.push("b!") == ""
    assert matcher.matched == "[a-c]{2}x?b", "both are complete; it began first"


def test_what_cannot_become_a_stop_is_given_at_once() -> None:
    matcher = StopMatcher(["User:"], patterns=[r"\n\n+#"])
    assert matcher.push("hello ") == "hello "
    assert matcher.push("Us") == ""
    assert matcher.push("e it\n") == "Use it"
    assert matcher.push("\n\n") == ""
    assert matcher.push("x") == "\n\n\nx"


def test_flags_classes_and_the_beginning() -> None:
    assert StopMatcher([], patterns=["(?i)stop"]).push("xSToP") == "x"
    assert StopMatcher([], patterns=["(?s)a.b"]).push("xa\nb") == "x"
    matcher = StopMatcher([], patterns=["^ab", r"\u00e9[\]\-]"])
    assert matcher.push("xab") == "xab"
    assert matcher.push("\u00e9-") == ""
    assert StopMatcher([], patterns=["^ab"]).push("ab") == ""


REFUSED = r"""(  (a  a)  [a  a**  a{3  {  *a  a{2,1}  a{0}  a$  \b  \1  (?=a)  (?P<n>a)  (?x)a  \x4
[z-a]  [\d-z]  (a{99}){99}  (){300}  ((){300}){300}  a{1000}  \  a*  a|  ^"""
HOSTILE = ["(x+x+)+y", "(a?){150}a{90}", "(.*a){20}b", "(a|a)*b", "(a*)*b"]


@pytest.mark.parametrize("bad", ["", "a" * 500, "(" * 40 + "a" + ")" * 40, *REFUSED.split()])
def test_what_is_not_here_is_refused(bad: str) -> None:
    with pytest.raises(RequestError, match="stop_regex"):
        StopRegex([bad])


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_pattern_is_a_bounded_walk(hostile: str) -> None:
    """A character's work is counted in threads that live, not in time."""
    matcher = StopRegex([hostile])
    for _ in range(3000):
        matcher.feed("a")
        assert len(matcher._states) <= MAX_STATES
        matcher.feed("x")
