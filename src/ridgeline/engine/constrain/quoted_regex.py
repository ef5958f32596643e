"""A regex of a text, as the regex of that text within a JSON string.

Each character of a text is written in one way: what JSON escapes by the shorter escape, all else
as it stands. What a class of characters matches is asked of llguidance itself.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ridgeline.errors import RequestError

MAX_DEPTH = 200
_SHORT = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", '"': '"', "\\": "\\"}
_ESCAPED = [*map(chr, range(32)), '"', "\\"]
_PLAIN = r'[^"\\\x00-\x1F]'
# Any text within a JSON string, as it is written here.
ANY_TEXT = rf'(?:{_PLAIN}|\\["\\bfnrt]|\\u00(?:0[0-7bef]|1[0-9a-f]))*'
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
_HEX = re.compile(r"x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[xuU]\{[0-9A-Fa-f]{1,8}\}")
_SET = re.compile(r"[dDwWsS]|[pP](?:\{[^{}]*\}|[A-Za-z])")
_GROUP = re.compile(r"\(\?(?:P?<[A-Za-z_][A-Za-z0-9_.\[\]]*>|([a-zA-Z]*)(?:-([a-zA-Z]+))?([:)]))")
_TIMES = re.compile(r"\{\d+(?:,\d*)?\}")


def quoted_regex(pattern: str, field: str, flags: str = "", *, quotes: bool = True) -> str:
    """pattern, flags: Rust's syntax, as llguidance reads it, which has accepted them. quotes:
    False: the same text. Either way what is given is the inside of a Lark regex, without anchors.
    Raises RequestError, naming `field`, for what cannot be written so.
    """
    return _Writer(pattern, field, quotes).written("s" in flags, "i" in flags)


def exactly(text: str) -> str:
    """A regex of this text alone, to stand in Lark."""
    return "".join(
        f"\\{char}"
        if char in r"\.+*?()|[]{}^$/"
        else f"\\x{{{ord(char):x}}}"
        if char < " "
        else char
        for char in text
    )


def json_text(character: str) -> str:
    """A character as it stands within a JSON string."""
    if character in _SHORT:
        return "\\" + _SHORT[character]
    return f"\\u{ord(character):04x}" if character < " " else character


class _Writer:
    def __init__(self, pattern: str, field: str, quotes: bool) -> None:
        self._pattern, self._field, self._quotes = pattern, field, quotes

    def written(self, dot_all: bool, any_case: bool) -> str:
        text, at = self._pattern, 0
        out: list[str] = []
        modes = [(dot_all, any_case)]
        while at < len(text):
            dot_all, any_case = modes[-1]
            char = text[at]
            if char == "\\":
                end, atom = self._escape(at)
                out.append(self._one(*atom, any_case))
                at = end
            elif char == "[":
                end = self._class_end(at)
                inside = re.sub(r"\\.|[/\n]", _slashed, text[at:end], flags=re.DOTALL)
                out.append(self._set(inside, any_case))
                at = end
            elif char == ".":
                out.append(self._set(r"(?s:.)" if dot_all else r"[^\n]", any_case))
                at += 1
            elif char == "(":
                at = self._open(at, out, modes)
                if len(modes) > MAX_DEPTH:
                    raise self._wrong("is nested too deeply")
            elif char == ")":
                if len(modes) == 1:
                    raise self._wrong("has a ) too many")
                modes.pop()
                out.append(")")
                at += 1
            elif char == "{":
                found = _TIMES.match(text, at)
                if found is None:
                    raise self._wrong("has a { that is no count; write \\{")
                out.append(found[0])
                at = found.end()
            elif char in "*+?|":
                out.append(char)
                at += 1
            elif (char == "^" and at == 0) or (char == "$" and at == len(text) - 1):
                at += 1  # the whole text is matched anyway
            elif char in "^$":
                raise self._wrong("has an anchor in its midst, where none can be held to")
            else:
                out.append(self._one(char, exactly(char), any_case))
                at += 1
        return "".join(out)

    def _open(self, at: int, out: list[str], modes: list[tuple[bool, bool]]) -> int:
        if not self._pattern.startswith("(?", at):
            out.append("(?:")
            modes.append(modes[-1])
            return at + 1
        found = _GROUP.match(self._pattern, at)
        if found is None:
            raise self._wrong("has a group of a kind that cannot be held to")
        on, off, end = found[1] or "", found[2] or "", found[3] or ""
        if set(on + off) - set("ismU"):
            raise self._wrong(f"sets flags other than i, s, m: {found[0]!r}")
        dot_all = (modes[-1][0] or "s" in on) and "s" not in off
        any_case = (modes[-1][1] or "i" in on) and "i" not in off
        cases = f"?{'' if any_case else '-'}i"  # dots are written out, and nothing else is needed
        if end == ")":
            modes[-1] = dot_all, any_case
            out.append(f"({cases})")
        else:
            modes.append((dot_all, any_case))
            out.append(f"({cases}:")
        return found.end()

    def _escape(self, at: int) -> tuple[int, tuple[str, str]]:
        """Where it ends, and what it is: the character, or "" for a class, and the regex."""
        text, rest = self._pattern, at + 1
        if rest == len(text):
            raise self._wrong("ends with a backslash")
        char = text[rest]
        if char in _CONTROLS:
            return rest + 1, (_CONTROLS[char], text[at : rest + 1])
        found = _HEX.match(text, rest)
        if found is not None:
            code = int(found[0].strip("xuU{}"), 16)
            if code > 0x10FFFF:
                raise self._wrong(f"names no character by \\{found[0]}")
            return found.end(), (chr(code), text[at : found.end()])
        found = _SET.match(text, rest)
        if found is not None:
            return found.end(), ("", text[at : found.end()])
        if char.isalnum() or char in "<>":
            raise self._wrong(f"has \\{char}, which cannot be held to")
        return rest + 1, (char, exactly(char))

    def _class_end(self, at: int) -> int:
        text, depth = self._pattern, 0
        while at < len(text):
            char = text[at]
            if char == "\\":
                at += 2
                continue
            if char == "[":
                depth += 1
                if depth > MAX_DEPTH:
                    raise self._wrong("is nested too deeply")
                at += 2 if text.startswith("^", at + 1) else 1
                if text.startswith("]", at):
                    at += 1  # the first one stands for itself
                continue
            if char == "]":
                depth -= 1
                if depth == 0:
                    return at + 1
            at += 1
        raise self._wrong("has a [ that nothing closes")

    def _one(self, char: str, written: str, any_case: bool) -> str:
        if char == "":
            return self._set(written, any_case)
        if self._quotes and char in _ESCAPED:
            return f"(?-i:{_regex_of(char)})"
        return written

    def _set(self, written: str, any_case: bool) -> str:
        if not self._quotes:
            return written
        escaped, has_plain = _members(written, any_case)
        ways = [f"(?-i:{_regex_of(char)})" for char in escaped]
        if has_plain:
            ways.append(_PLAIN if written == "(?s:.)" else f"[{written}&&{_PLAIN}]")
        return f"(?:{'|'.join(ways)})"

    def _wrong(self, why: str) -> RequestError:
        return RequestError(self._field, f"the regex {self._pattern[:100]!r} {why}")


def _regex_of(char: str) -> str:
    return exactly(json_text(char))


def _slashed(found: re.Match[str]) -> str:
    return {"/": r"\/", "\n": r"\n", "\\\n": r"\n"}.get(found[0], found[0])


@lru_cache(maxsize=4096)
def _members(written: str, any_case: bool) -> tuple[str, bool]:
    """Of what JSON escapes, the characters that a class has; and whether it has others."""
    from llguidance import LLMatcher, LLTokenizer

    pattern = f"(?i:{written})" if any_case else written
    matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_regex(pattern), log_level=0)
    if matcher.is_error():
        return "", True  # the whole is refused with the reason, as it was before
    mask = matcher.compute_bitmask()
    first = [byte for byte in range(256) if mask[byte // 8] >> (byte % 8) & 1]
    found = [chr(byte) for byte in first if chr(byte) in _ESCAPED]
    return "".join(found), len(found) < len(first)
