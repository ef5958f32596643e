"""A JSON value read a character at a time: where it ends, and where it stops being JSON."""

from __future__ import annotations

from ridgeline.serve.parse.reader import Emit, Reader, Steps

MAX_DEPTH = 128
_SPACE = " \t\r\n"


class JsonScan:
    """Feed it characters from the first of a value on.

    `feed` says "more", "last" (this character ends the value), "over" (the value ended before this
    one: numbers do) or "bad" (no JSON value goes on like this).
    """

    def __init__(self) -> None:
        self._stack: list[str] = []
        self._expects = "value"
        self._word = ""

    def feed(self, char: str) -> str:
        state = self._expects
        if state == "string" or state == "key string":
            return self._in_string(char)
        if state == "escape" or state == "key escape":
            return self._escaped(char)
        if state == "word":
            return self._in_word(char)
        if char in _SPACE and char:
            return "more"
        if state == "value" or (state == "first item" and char != "]"):
            return self._begin(char)
        if state == "first item" or (state == "next" and self._stack[-1] == "[" and char == "]"):
            return self._close()
        if state == "next" and self._stack[-1] == "{" and char == "}":
            return self._close()
        if state == "next" and char == ",":
            self._expects = "key" if self._stack[-1] == "{" else "value"
            return "more"
        if state == "first key" and char == "}":
            return self._close()
        if state in ("first key", "key") and char == '"':
            self._expects = "key string"
            return "more"
        if state == "colon" and char == ":":
            self._expects = "value"
            return "more"
        return "bad"

    def _begin(self, char: str) -> str:
        if char in ("{", "["):
            if len(self._stack) == MAX_DEPTH:
                return "bad"
            self._stack.append(char)
            self._expects = "first key" if char == "{" else "first item"
        elif char == '"':
            self._expects = "string"
        elif char and char in "-0123456789tfn":
            self._word, self._expects = char, "word"
        else:
            return "bad"
        return "more"

    def _in_string(self, char: str) -> str:
        is_key = self._expects == "key string"
        if char == '"':
            if is_key:
                self._expects = "colon"
                return "more"
            return self._end_value()
        if char == "\\":
            self._expects = "key escape" if is_key else "escape"
            self._word = ""
        elif not char or char < " ":
            return "bad"
        return "more"

    def _escaped(self, char: str) -> str:
        back = "key string" if self._expects == "key escape" else "string"
        self._word += char
        if self._word[0] == "u":
            if len(self._word) > 1 and char not in "0123456789abcdefABCDEF":
                return "bad"
            if len(self._word) == 5:
                self._expects = back
            return "more" if char else "bad"
        if not char or char not in '"\\/bfnrt':
            return "bad"
        self._expects = back
        return "more"

    def _in_word(self, char: str) -> str:
        if char and ((char.isascii() and char.isalnum()) or char in "+-."):
            self._word += char
            return "more" if len(self._word) <= 400 else "bad"
        if not _is_scalar(self._word):
            return "bad"
        if not self._stack:
            return "over"
        self._expects = "next"
        return self.feed(char)

    def _close(self) -> str:
        self._stack.pop()
        return self._end_value()

    def _end_value(self) -> str:
        self._expects = "next"
        return "more" if self._stack else "last"


def _is_scalar(word: str) -> bool:
    if word in ("true", "false", "null"):
        return True
    digits = word.removeprefix("-")
    whole = digits.split(".")[0].lower().split("e")[0]
    if not whole.isdigit() or (len(whole) > 1 and whole[0] == "0"):
        return False
    rest = digits[len(whole) :]
    if rest.startswith("."):
        fraction = rest[1:].lower().split("e")[0]
        if not fraction.isdigit():
            return False
        rest = rest[1 + len(fraction) :]
    if rest:
        power = rest[1:]
        return rest[0] in "eE" and (power[1:] if power[:1] in ("+", "-") else power).isdigit()
    return True


def read_value(reader: Reader, emit: Emit | None = None) -> Steps[bool]:
    """Reads one JSON value from the place on; False where it is none, at the first character that
    says so. emit: told what was read as it comes (the reader then forgets it).
    """
    scan = JsonScan()
    start = reader.at
    while True:
        while reader.at < len(reader.text):
            verdict = scan.feed(reader.text[reader.at])
            if verdict in ("more", "last"):
                reader.at += 1
            if verdict != "more":
                if emit is not None and reader.at > start:
                    emit(reader.text[start : reader.at])
                return verdict != "bad"
        if emit is not None:
            if reader.at > start:
                emit(reader.text[start : reader.at])
            reader.forget()
            start = 0
        if reader.closed:
            return scan.feed("") == "over"
        yield
