"""gpt-oss: an answer is messages on channels, each a header and a body.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...

Reasoning is on "analysis"; a message "to=functions.f" is a call; all else is the answer. A header
that names a tool that there is not, or that never ends, is text. Published by OpenAI as "harmony".
"""

from __future__ import annotations

from itertools import pairwise

from ridgeline.serve.parse.calls import Calls
from ridgeline.serve.parse.json_scan import read_value
from ridgeline.serve.parse.parts import Reasoning
from ridgeline.serve.parse.reader import Emit, Reader, Steps

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
MARKERS = (START, CHANNEL, MESSAGE, "<|constrain|>", *ENDS)


def read_harmony(reader: Reader, calls: Calls | None, *, separate: bool) -> Steps[None]:
    """Reads a whole answer; the prompt has ended with the start of its first message."""
    first = True
    while True:
        header = yield from _header(reader, first)
        first = False
        if header is None:
            # No message: text up to the next one that starts.
            if (yield from reader.copy_until((START,), reader.emit_text)) is None:
                return
            continue
        words = header.replace("<|", " <|").replace("|>", "|> ").split()
        channel = next((b for a, b in pairwise(words) if a == CHANNEL), "")
        to = next((w.removeprefix("to=functions.") for w in words if w.startswith("to=")), "")
        if to and calls is not None and calls.knows(to):
            yield from _call(reader, calls, to)
        elif to:
            reader.emit_text(header + MESSAGE)
            yield from reader.copy_until((*ENDS, START), reader.emit_text)
        elif channel == "analysis" and separate:
            yield from reader.copy_until((*ENDS, START), _reasoning(reader))
        else:
            yield from reader.copy_until((*ENDS, START), reader.emit_text)
        for end in ENDS:
            yield from reader.literal(end)
        if not (yield from reader.char()):
            return


def _reasoning(reader: Reader) -> Emit:
    return lambda text: reader.parts.append(Reasoning(text))


def _header(reader: Reader, first: bool) -> Steps[str | None]:
    """A message's header, read with the marker behind it; None, with nothing read, where the next
    is none.
    """
    start = reader.at
    opened = yield from reader.literal(START)
    char = yield from reader.char()
    if not opened and not (first and char in ("<", " ")):
        return None
    held: list[str] = []
    begin = reader.at
    while not (yield from reader.literal(MESSAGE)):
        char = yield from reader.char()
        broken = yield from reader.at_any((*ENDS, START))
        if not char or broken or reader.at - begin > 512:
            reader.emit_text(reader.text[start : reader.at])
            return None
        held.append(char)
        reader.at += 1
    return reader.text[start : reader.at - len(MESSAGE)].removeprefix(START)


def _call(reader: Reader, calls: Calls, name: str) -> Steps[None]:
    calls.begin(name)
    yield from reader.space()
    if (yield from reader.char()) == "{":
        yield from read_value(reader, calls.give)
    yield from reader.space()
    # What stands behind the arguments is nothing's but text.
    yield from reader.copy_until((*ENDS, START), reader.emit_text)
