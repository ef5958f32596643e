"""The incremental parser of one answer: text in, parts out (`parts`).

No character that a model wrote is lost: what is no call, no reasoning and no mark of either comes
out as text. Joined (`parts.folded`), the parts of a text are the same however it was cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from ridgeline.engine.constrain.text_grammar import TextGrammar
from ridgeline.serve.parse.calls import Calls, bare_call, read_call
from ridgeline.serve.parse.format import ModelFormat, ReasoningFormat, ToolFormat
from ridgeline.serve.parse.harmony import read_harmony
from ridgeline.serve.parse.parts import Part, Reasoning
from ridgeline.serve.parse.reader import Emit, Reader, Steps, marker_pieces

_ALNUM = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Parser:
    """`feed` it text as it comes, `finish` it at the end; each gives the parts that are certain.

    form: what the model writes. tools: argument schemas (JSON Schema) by name; empty: no calls are
    looked for. separate: reasoning becomes parts of its own, else it is text as the model wrote it.
    reasons: the prompt ends inside a reasoning section. salt: what ids of calls are made of; the
    same gives the same ids. texts: by tool, what the text that it is called with keeps to.
    """

    def __init__(
        self,
        form: ModelFormat,
        tools: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        separate: bool = True,
        reasons: bool = False,
        salt: str = "",
        texts: Mapping[str, TextGrammar] | None = None,
    ) -> None:
        self._reader = Reader()
        self._form = form
        self._separate = separate
        self._reasons = reasons
        self._calls: Calls | None = None
        if tools and form.tools is not None:
            style = form.tools.ids

            def id_of(number: int, name: str) -> str:
                return call_id(style, salt, number, name)

            self._calls = Calls(self._reader, form.tools, tools, id_of, texts or {})
        self._steps = self._run()
        self._ended = False

    def feed(self, text: str, token_ids: Sequence[int] = ()) -> list[Part]:
        """The parts that `text`, after all before it, makes certain."""
        self._reader.feed(text)
        return self._go()

    def finish(self) -> list[Part]:
        """The rest: nothing comes after."""
        self._reader.closed = True
        return self._go()

    def _go(self) -> list[Part]:
        if not self._ended:
            try:
                next(self._steps)
            except StopIteration:
                self._ended = True
        if self._ended:
            # Nothing is looked for any more.
            self._reader.emit_text(self._reader.text[self._reader.at :])
            self._reader.at = len(self._reader.text)
            self._reader.forget()
        parts, self._reader.parts = self._reader.parts, []
        return parts

    def _run(self) -> Steps[None]:
        form, reader = self._form, self._reader
        if form.reasoning is not None and form.reasoning.harmony:
            yield from read_harmony(reader, self._calls, separate=self._separate)
            return
        if form.reasoning is not None:
            yield from self._reasoning(form.reasoning, self._reasons)
        calls = self._calls
        if calls is not None and calls.form.at_start:
            yield from self._unmarked(calls)
        elif calls is not None and calls.form.body == "object" and (yield from self._bare(calls)):
            return
        triggers = calls.form.triggers if calls is not None else ()
        while (
            found := (yield from reader.copy_until((*triggers, *form.wrappers), reader.emit_text))
        ) is not None:
            if found not in triggers:
                reader.at += len(found)
                continue
            assert calls is not None
            start = reader.at
            if not (yield from self._section(calls)):
                reader.at = max(reader.at, start + len(found))
                reader.give_up(start)
                continue
            yield from self._after_calls(triggers)

    def _after_calls(self, triggers: Sequence[str]) -> Steps[None]:
        """Space behind calls belongs to them unless text follows; more reasoning may."""
        reader, form = self._reader, self._form
        space = yield from reader.space()
        if not (yield from reader.char()):
            return
        if (yield from reader.at_any(triggers)):
            return
        reader.emit_text(space)
        if form.reasoning is not None and self._separate:
            yield from self._reasoning(form.reasoning, False)

    def _reasoning(self, marks: ReasoningFormat, inside: bool) -> Steps[None]:
        reader = self._reader
        start = reader.at
        yield from reader.space()
        opened = yield from reader.accept(marks.open)
        if not opened and not inside:
            reader.at = start
            return
        if not opened or not self._separate:
            reader.at = start
        if not self._separate:  # text as it stands: what looks like a call in it is none
            close = marker_pieces(marks.close)[0]
            if (yield from reader.copy_until((close,), reader.emit_text)) is not None:
                reader.emit_text(close)
                reader.at += len(close)
            return

        def emit(text: str) -> None:
            reader.parts.append(Reasoning(text))

        yield from self._trimmed_reasoning(marks, emit)

    def _trimmed_reasoning(self, marks: ReasoningFormat, emit: Emit) -> Steps[None]:
        """Reasoning without the white space around it, up to its closing mark."""
        reader = self._reader
        yield from reader.space()
        close = marker_pieces(marks.close)[0]
        spaces = ("\n", " ", "\t", "\r")
        while True:
            found = yield from reader.copy_until((close, *spaces), emit)
            if found is None:
                return
            if found == close:
                break
            space = yield from reader.space()
            start = reader.at
            at_close = yield from reader.literal(close)
            reader.at = start
            if not at_close and (yield from reader.char()):
                emit(space)
        yield from reader.accept(marks.close)
        yield from reader.space()

    def _unmarked(self, calls: Calls) -> Steps[None]:
        """Calls at the very start of an answer; where there is none, nothing is read."""
        reader = self._reader
        start = reader.at
        yield from reader.space()
        first = yield from reader.char()
        if first != ("[" if calls.form.body == "pythonic" else "{"):
            if not (yield from reader.at_any(calls.form.triggers)):
                reader.at = start
            return
        if (yield from self._section(calls)):
            yield from self._after_calls(calls.form.triggers)
        else:
            reader.give_up(start)

    def _bare(self, calls: Calls) -> Steps[bool]:
        """An answer that is one JSON object and nothing else, with the name of a tool and its
        arguments: a call whose marks the model left out. Where it is not, nothing is read.
        """
        reader = self._reader
        start = reader.at
        yield from reader.space()
        found = (yield from reader.char()) == "{" and (yield from bare_call(calls))
        if not found:
            reader.at = start
        return found

    def _section(self, calls: Calls) -> Steps[bool]:
        """One call or several, with their marks. False, at where it failed, if there is none."""
        reader, form = self._reader, calls.form
        for trigger in form.triggers:
            # A mark that the template does not print before calls, but that models write.
            if not form.section_open and not form.call_open:
                yield from reader.literal(trigger)
        if not (yield from reader.accept(form.section_open)):
            return False
        if not (yield from reader.accept(form.call_open)):
            return False
        if not (yield from read_call(calls)):
            return False
        yield from reader.accept(form.call_close)
        while True:
            reader.forget()
            separated = yield from self._next(form)
            if not separated:
                break
            if not (yield from read_call(calls)):
                reader.give_up(0)
                return True
            yield from reader.accept(form.call_close)
        yield from reader.accept(form.section_close)
        return True

    def _next(self, form: ToolFormat) -> Steps[bool]:
        """Reads what stands between two calls; nothing where no other follows."""
        reader = self._reader
        start = reader.at
        if not (form.separator.strip() or form.call_open.strip()):
            return False
        for separator in {form.separator, ""} if form.call_open.strip() else {form.separator}:
            if (yield from reader.accept(separator)) and (yield from reader.accept(form.call_open)):
                return True
            reader.at = start
        return False


def call_id(style: str, salt: str, number: int, name: str) -> str:
    """The id of an answer's call `number` (from 0): a function of its arguments alone."""
    if style == "indexed":
        return f"functions.{name}:{number}"
    digest = hashlib.sha256(f"{salt}\n{number}".encode("utf-8", "replace")).digest()
    if style == "nine":
        return "".join(_ALNUM[byte % len(_ALNUM)] for byte in digest[:9])
    return f"call_{digest.hex()[:24]}"
