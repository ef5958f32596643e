"""How a model is asked and understood: its template's form, the grammar of tools, the parser.

`phrase` makes of an `Ask` the prompt's text and ids, the sampling that the tools' grammar is part
of, and a maker of parsers for the answers. It runs in a thread: nothing here touches the loop.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from ridgeline.engine.constrain.compile import Constraints
from ridgeline.engine.constrain.schema import check_schema
from ridgeline.engine.constrain.text_grammar import TextGrammar
from ridgeline.engine.prompts import Prompts, Tokenized
from ridgeline.engine.request import SamplingParams
from ridgeline.errors import ModelError, RequestError
from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.serve.core.ask import AllowedTools, Ask, Conversation, NamedTool, Tool
from ridgeline.serve.parse.derive import format_of
from ridgeline.serve.parse.format import ModelFormat
from ridgeline.serve.parse.grammar import tool_grammar
from ridgeline.serve.parse.parser import Parser

PLAIN = ModelFormat(None, None)
# What stands for an answer, where it is looked how a template goes on behind one.
_ANSWER = "an answer, 7d1f9a"
# What a template is given by us, and no request may replace.
_RESERVED = frozenset(
    {"self", "messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now"}
)


@dataclass(frozen=True, slots=True)
class Phrased:
    """prompt: as the engine takes it. sampling: with the tools' grammar. parser: a new one for each
    answer; None: the text is the answer as it stands.
    """

    prompt: Tokenized
    sampling: SamplingParams
    form: ModelFormat
    schemas: Mapping[str, Mapping[str, Any]]
    separate: bool
    reasons: bool
    salt: str
    texts: Mapping[str, TextGrammar] = field(default_factory=dict)

    def parser(self, index: int) -> Parser | None:
        marks = self.form.reasoning
        reads_reasoning = marks is not None and (self.separate or marks.harmony)
        if not self.schemas and not reads_reasoning:
            return None
        return Parser(
            self.form,
            self.schemas,
            separate=self.separate,
            reasons=self.reasons,
            salt=f"{self.salt}{index}",
            texts=self.texts,
        )


class Phrasing:
    """One model's ways; its template is looked into once, when it is first needed."""

    def __init__(self, prompts: Prompts, constraints: Constraints) -> None:
        self._prompts = prompts
        self._constraints = constraints
        self._form: ModelFormat | None = None
        tokenizer = prompts.tokenizer
        self._special = {
            text: index
            for index in tokenizer.special_ids
            if index < tokenizer.vocab_size and (text := _text(tokenizer, index))
        }

    @property
    def form(self) -> ModelFormat:
        """What the model's template says of its output; of a model without one, nothing."""
        if self._form is None:
            try:
                template = self._prompts.template
            except ModelError:
                self._form = replace(PLAIN, no_tools="this model has no chat template")
            else:
                ends = [_text(self._prompts.tokenizer, i) for i in self._prompts.tokenizer.eos_ids]
                self._form = format_of(template, ends)
        return self._form

    def heard(self, ask: Ask, ignored: list[str] | None) -> Ask:
        """The ask without wishes for reasoning that the model's template has no ear for: their
        names are added to `ignored`. None: they stay, and are refused.
        """
        switch = ask.reasoning
        if ignored is None or not isinstance(ask.prompt, Conversation):
            return ask
        if switch.enabled and self.form.reasoning is None:
            ignored.append(switch.enabled_as)
            switch = replace(switch, enabled=None)
        if switch.effort is not None and not self._knows_effort:
            ignored.append(switch.effort_as)
            switch = replace(switch, effort=None)
        return replace(ask, reasoning=switch)

    @property
    def _knows_effort(self) -> bool:
        return "reasoning_effort" in self._prompts.template.source

    def phrase(self, ask: Ask) -> Phrased:
        """Raises RequestError for what the model, or its template, has not; ModelError where it has
        no template.
        """
        tools = offered(ask)
        if not isinstance(ask.prompt, Conversation):
            if tools:
                raise RequestError("tools", "need messages; a bare prompt has no place for them")
            prompt = self._cut(self._prompts.tokenize(ask.prompt), ask.truncate)
            return Phrased(prompt, ask.sampling, PLAIN, {}, False, False, "")
        form = self.form
        if tools and form.tools is None:
            raise RequestError("tools", form.no_tools)
        prompt = self._cut(self._render(ask, ask.prompt, tools), ask.truncate)
        text = prompt.text or ""
        marks = form.reasoning
        reasons = (
            marks is not None and not marks.harmony and text.rstrip().endswith(marks.open.strip())
        )
        texts = {
            tool.name: self._constraints.text(wish.syntax, wish.definition, wish.field)
            for tool in tools
            if (wish := tool.text) is not None
        }
        sampling = self._sampling(ask, tools, reasons, texts)
        digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
        schemas = {tool.name: tool.parameters for tool in allowed(ask, tools)}
        if ask.sampling.structured_outputs is not None:
            schemas = {}  # the answer has a form of its own, and is no call, whatever it looks like
        return Phrased(
            prompt, sampling, form, schemas, ask.reasoning.separate, reasons, digest, texts
        )

    def render(self, ask: Ask) -> Tokenized:
        """The prompt alone."""
        if not isinstance(ask.prompt, Conversation):
            return self._prompts.tokenize(ask.prompt)
        return self._render(ask, ask.prompt, offered(ask))

    def _render(self, ask: Ask, conversation: Conversation, tools: tuple[Tool, ...]) -> Tokenized:
        variables = dict(conversation.variables)
        for wanted in variables:
            if wanted in _RESERVED or not wanted.isidentifier():
                raise RequestError("chat_template_kwargs", f"{wanted[:50]!r} cannot be set")
        switch = ask.reasoning
        if switch.enabled is not None:
            if self.form.reasoning is None and switch.enabled:
                raise RequestError(
                    switch.enabled_as, "this model's chat template knows no reasoning"
                )
            variables.setdefault("enable_thinking", switch.enabled)
            variables.setdefault("thinking", switch.enabled)
        if switch.effort is not None:
            if not self._knows_effort:
                raise RequestError(
                    switch.effort_as, "this model's chat template knows no efforts of reasoning"
                )
            variables.setdefault("reasoning_effort", switch.effort)
        definitions = [tool.definition for tool in tools] or None
        messages = list(conversation.messages)
        form = self.form.tools
        name = form.variable if form is not None else "tools"
        if definitions is not None and name is None:
            messages = _told(messages, definitions)
            definitions = None
        elif definitions is not None and name != "tools":
            variables[str(name)] = definitions
            definitions = None
        if conversation.after:
            return self._after(messages, variables, conversation.after)
        if conversation.ends == "continued":
            return self._continued(messages, definitions, variables, conversation.continued_as)
        return self._prompts.render(
            messages,
            tools=definitions,
            add_generation_prompt=conversation.ends == "answering",
            variables=variables,
        )

    def _after(
        self,
        messages: list[Mapping[str, Any]],
        variables: dict[str, Any],
        before: tuple[int, ...],
    ) -> Tokenized:
        """A turn behind the tokens of others, as the template writes one behind an answer."""
        try:
            self._prompts.tokenize({"prompt_token_ids": before})
        except RequestError as error:
            raise RequestError("context", str(error).partition(": ")[2]) from None
        turns = [{"role": "user", "content": "."}, {"role": "assistant", "content": _ANSWER}]
        whole = self._prompts.render([*turns, *messages], variables=variables).text or ""
        _, found, text = whole.partition(_ANSWER)
        if not found:
            raise RequestError("context", "this model's chat template has no place for answers")
        return Tokenized(text, [*before, *self._prompts.tokenizer.encode(text, add_special=False)])

    def _continued(
        self,
        messages: list[Mapping[str, Any]],
        tools: list[dict[str, Any]] | None,
        variables: dict[str, Any],
        field: str,
    ) -> Tokenized:
        """The head of an answer, and the answer's beginning that the client wrote."""
        *others, last = messages
        begun = last.get("content")
        is_text = isinstance(begun, str) and not last.get("tool_calls")
        if not others or last.get("role") != "assistant" or not is_text:
            raise RequestError(
                field, "an answer that is begun is the assistant's text alone, after other messages"
            )
        before = self._prompts.render(others, tools=tools, variables=variables)
        text, marks = before.text or "", self.form.reasoning
        if marks is not None and (marks.harmony or text.rstrip().endswith(marks.open.strip())):
            raise RequestError(field, "this model's answers begin with its reasoning")
        if before.images:
            raise RequestError(field, "cannot be had in a conversation with images")
        text = f"{text}{begun}"
        return Tokenized(text, self._prompts.tokenizer.encode(text, add_special=False))

    def _sampling(
        self,
        ask: Ask,
        tools: tuple[Tool, ...],
        reasons: bool,
        texts: Mapping[str, TextGrammar],
    ) -> SamplingParams:
        sampling = ask.sampling
        form = self.form
        hidden = any(mark in text for mark in self._special for text in form.markers)
        harmony = form.reasoning is not None and form.reasoning.harmony
        if (hidden or harmony) and (tools or ask.reasoning.separate or harmony):
            sampling = replace(sampling, skip_special_tokens=False)
        if not tools:
            return sampling
        choice = ask.tool_choice
        required = choice.required if isinstance(choice, AllowedTools) else choice != "auto"
        chosen = allowed(ask, tools)
        many = ask.parallel_tool_calls and not isinstance(ask.tool_choice, NamedTool)
        if getattr(sampling, "structured_outputs", None) is not None:
            if required:
                raise RequestError("tool_choice", "a call and a response_format cannot both be had")
            return sampling
        for tool in chosen:  # here, where a refusal can say whose schema it is
            check_schema(json.dumps(dict(tool.parameters)), f"tools.{tool.name}")
        grammar = tool_grammar(
            form,
            [(tool.name, tool.parameters) for tool in chosen],
            required=required,
            many=many,
            reasons=reasons,
            special=self._special,
            texts=texts,
        )
        if not required and not can_constrain():
            return sampling
        return constrained(sampling, "tool_choice", grammar=grammar)

    def _cut(self, prompt: Tokenized, most: int | None) -> Tokenized:
        if most is None or len(prompt.token_ids) <= most:
            return prompt
        return Tokenized(prompt.text, prompt.token_ids[-most:])


def constrained(sampling: SamplingParams, field: str, **kind: Any) -> SamplingParams:
    """With a grammar (json=, json_object=, regex=, choice=, grammar=) that the answer keeps to.
    field: whose wish it is, for the error where the engine has no masks.
    """
    if not can_constrain():
        raise RequestError(field, "answers cannot be constrained by this version")
    constrain: Any = import_module("ridgeline.engine.constrain")
    wish = constrain.StructuredOutputs(**kind)
    changes: dict[str, Any] = {"structured_outputs": wish}
    return replace(sampling, **changes)


def can_constrain() -> bool:
    return "structured_outputs" in SamplingParams.__dataclass_fields__


def offered(ask: Ask) -> tuple[Tool, ...]:
    """The tools that the model is told of: none where none is to be called."""
    if ask.tool_choice == "none":
        return ()
    if not ask.tools and ask.tool_choice != "auto":
        raise RequestError("tool_choice", "there are no tools to choose from")
    names = [tool.name for tool in ask.tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError("tools", f"{twice!r} is there twice")
    return ask.tools


def allowed(ask: Ask, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    """Of the tools that the model is told of those that it may call. Raises RequestError for the
    name of one that there is not.
    """
    choice = ask.tool_choice
    if isinstance(choice, str):
        return tools
    names = (choice.name,) if isinstance(choice, NamedTool) else choice.names
    lacking = set(names).difference(tool.name for tool in tools)
    if lacking:
        raise RequestError("tool_choice", f"{min(lacking)!r} is none of the tools")
    return tuple(tool for tool in tools if tool.name in names)


def _told(
    messages: list[Mapping[str, Any]], definitions: list[dict[str, Any]]
) -> list[Mapping[str, Any]]:
    """Tools in words, for a template that prints calls but not what may be called."""
    import json

    listed = "\n".join(json.dumps(each["function"], ensure_ascii=False) for each in definitions)
    text = f"You can call these functions:\n{listed}"
    if messages and messages[0].get("role") == "system":
        first = {**messages[0], "content": f"{messages[0].get('content') or ''}\n\n{text}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _text(tokenizer: Tokenizer, index: int) -> str:
    return tokenizer.token_bytes(index).decode("utf-8", "replace")
