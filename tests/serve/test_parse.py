"""What models write becomes text, reasoning and calls; however it is cut, nothing is lost."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ridgeline.model.text.chat import ChatTemplate
from ridgeline.serve.parse.derive import format_of
from ridgeline.serve.parse.format import ModelFormat, ReasoningFormat
from ridgeline.serve.parse.parser import Parser
from ridgeline.serve.parse.parts import (
    CallArguments,
    CallBegin,
    Part,
    Reasoning,
    Text,
    folded,
)

SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "where": {"type": "object"},
        },
        "required": ["city"],
    },
    "stop": {"type": "object", "properties": {}},
}

# A family's template, as short as it can be: what it prints for tools and for calls.
_LOOP = "{% for m in messages %}"
_TOOLS = "{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}"


def template(call: str, *, between: str = "", around: tuple[str, str] = ("", "")) -> str:
    joined = "{% if not loop.last %}" + between + "{% endif %}"
    calls = "{% for c in m.tool_calls %}{% set f = c.function %}" + call + joined + "{% endfor %}"
    return (
        _TOOLS
        + _LOOP
        + "<|{{ m.role }}|>{{ m.content or '' }}{% if m.tool_calls %}"
        + around[0]
        + calls
        + around[1]
        + "{% endif %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )


_JSON = '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}'
_PAIRS = "{% for k, v in f.arguments | items %}"
TEMPLATES = {
    "hermes": template("<tool_call>\n" + _JSON + "\n</tool_call>", between="\n"),
    "llama": template('{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}').replace(
        "{% if m.tool_calls %}",
        "{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}"
        "{{ raise_exception('one call') }}{% endif %}{# <|python_tag|> #}",
    ),
    "mistral": template(
        '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}, "id": "{{ c.id }}"}'
        "{% if c.id | length != 9 %}{{ raise_exception('ids have 9 letters') }}{% endif %}",
        between=", ",
        around=("[TOOL_CALLS][", "]"),
    ),
    "mistral args": template("[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}"),
    "mistral ids": template(
        "[TOOL_CALLS]{{ f.name }}[CALL_ID]{{ c.id }}[ARGS]{{ f.arguments | tojson }}"
    ),
    "deepseek v3": template(
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ f.name }}\n```json\n"
        "{{ f.arguments | tojson }}\n```<｜tool▁call▁end｜>",
        between="\n",
        around=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ),
    "deepseek v3.1": template(
        "<｜tool▁call▁begin｜>{{ f.name }}<｜tool▁sep｜>"
        "{{ f.arguments | tojson }}<｜tool▁call▁end｜>",
        around=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ),
    "kimi": template(
        "<|tool_call_begin|>functions.{{ f.name }}:{{ loop.index0 }}<|tool_call_argument_begin|>"
        "{{ f.arguments | tojson }}<|tool_call_end|>",
        around=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    ),
    "command r": template(
        '{"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ f.name }}", '
        '"parameters": {{ f.arguments | tojson }}}',
        between=",\n    ",
        around=("<|START_ACTION|>[\n    ", "\n]<|END_ACTION|>"),
    ),
    "granite": template(_JSON, between=", ", around=("<|tool_call|>[", "]")),
    "apertus": template(
        '{"{{ f.name }}": {{ f.arguments | tojson }}}',
        between=", ",
        around=("<|tools_prefix|>[", "]<|tools_suffix|>"),
    ),
    "qwen3-coder": template(
        "<tool_call>\n<function={{ f.name }}>\n"
        + _PAIRS
        + "<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>\n"
        + "{% endfor %}</function>\n</tool_call>",
        between="\n",
    ),
    "glm": template(
        "\n<tool_call>{{ f.name }}\n"
        + _PAIRS
        + "<arg_key>{{ k }}</arg_key>\n<arg_value>"
        + "{{ v if v is string else v | tojson }}</arg_value>\n{% endfor %}</tool_call>",
    ),
    "minimax": template(
        '<invoke name="{{ f.name }}">\n'
        + _PAIRS
        + '<parameter name="{{ k }}">{{ v if v is string else v | tojson }}</parameter>\n'
        + "{% endfor %}</invoke>\n",
        around=("<minimax:tool_call>\n", "</minimax:tool_call>"),
    ),
    "lfm2": template(
        "{{ f.name }}({% for k, v in f.arguments | items %}{% if not loop.first %}, {% endif %}"
        "{{ k }}={% if v is string %}'{{ v }}'{% else %}{{ v | tojson }}{% endif %}{% endfor %})",
        between=", ",
        around=("<|tool_call_start|>[", "]<|tool_call_end|>"),
    ),
    "llama 4": template(
        "{{ f.name }}({% for k, v in f.arguments | items %}{% if not loop.first %}, {% endif %}"
        "{{ k }}={% if v is string %}'{{ v }}'{% else %}{{ v | tojson }}{% endif %}{% endfor %})",
        between=", ",
        around=("[", "]"),
    ),
}
_THINKS = "{# <think> </think> #}"
HARMONY = (
    _TOOLS + "{# functions. <|channel|> <|message|> #}" + _LOOP + "<|start|>{{ m.role }}<|message|>"
    "{{ m.content }}<|end|>{% endfor %}<|start|>assistant"
)


def model(name: str) -> ModelFormat:
    return format_of(ChatTemplate(_THINKS + TEMPLATES[name]), ("<|end|>",))


def parse(
    form: ModelFormat, text: str, cuts: list[int] | None = None, **options: Any
) -> list[Part]:
    options.setdefault("tools", SCHEMAS)
    parser = Parser(form, options.pop("tools"), salt="x", **options)
    parts: list[Part] = []
    for start, end in zip([0, *(cuts or [])], [*(cuts or []), len(text)], strict=True):
        parts += parser.feed(text[start:end])
    return folded(parts + parser.finish())


def written(name: str, *calls: tuple[str, dict[str, Any]]) -> str:
    """What the template prints for these calls: the model's own form."""
    ids = ("abcdefgh1", "abcdefgh2")
    text = ChatTemplate(TEMPLATES[name]).render(
        [
            {"role": "user", "content": "U"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": i, "function": {"name": f, "arguments": a}}
                    for i, (f, a) in zip(ids, calls, strict=False)
                ],
            },
        ],
        add_generation_prompt=False,
    )
    return text.split("<|assistant|>")[1].split("<|end|>")[0]


def calls_of(parts: list[Part]) -> list[tuple[str, Any]]:
    found: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, CallBegin):
            found.append((part.name, ""))
        elif isinstance(part, CallArguments):
            found[-1] = (found[-1][0], found[-1][1] + part.text)
    return [(name, json.loads(arguments)) for name, arguments in found]


WEATHER = ("get_weather", {"city": "São Paulo", "days": 3, "where": {"lat": [1, 2.5]}})
SHORT = ("get_weather", {"city": "Ulm"})


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_template_prints_is_read_back(name: str) -> None:
    parts = parse(model(name), written(name, WEATHER))
    assert calls_of(parts) == [WEATHER]
    assert not any(isinstance(part, Text) for part in parts)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "llama"])
def test_several_calls(name: str) -> None:
    parts = parse(model(name), written(name, SHORT, WEATHER))
    assert calls_of(parts) == [SHORT, WEATHER]
    assert not any(isinstance(part, Text) for part in parts)
    ids = [part.call_id for part in parts if isinstance(part, CallBegin)]
    assert len(set(ids)) == 2
    assert parse(model(name), written(name, SHORT, WEATHER)) == parts


@pytest.mark.parametrize("name", [name for name in TEMPLATES if not name.startswith("llama")])
def test_reasoning_and_words_before_a_call(name: str) -> None:
    text = "<think>\nLet me\n\nsee.\n</think>\n\nI look: " + written(name, SHORT)
    parts = parse(model(name), text)
    assert parts[0] == Reasoning("Let me\n\nsee.")
    # White space that the template prints before a call belongs to the call.
    assert isinstance(parts[1], Text)
    assert parts[1].text.rstrip() == "I look:"
    assert calls_of(parts) == [SHORT]
    inside = parse(model(name), text.removeprefix("<think>\n"), reasons=True)
    assert inside == parts


def damaged(text: str, chance: random.Random) -> str:
    kind = chance.randrange(6)
    at = chance.randrange(len(text) + 1)
    if kind == 0:
        return text[:at]
    if kind == 1:
        return text[:at] + chance.choice(["<", "{", "]", '"', "x", "\n", "<think>"]) + text[at:]
    if kind == 2:
        return text[:at] + text[at + 1 :]
    if kind == 3:
        return text + " and then " + text[:at]
    if kind == 4:
        return text.replace("get_weather", "no_such_tool", 1)
    return "Words " + text + " words <tool_cal"


@pytest.mark.parametrize("name", [*TEMPLATES, "harmony"])
def test_any_split_of_any_text_gives_the_same_and_loses_nothing(name: str) -> None:
    chance = random.Random(name)
    if name == "harmony":
        form = format_of(ChatTemplate(HARMONY))
        base = (
            "<|channel|>analysis<|message|>Hmm <b>\n.<|end|><|start|>assistant<|channel|>commentary"
            ' to=functions.get_weather <|constrain|>json<|message|>{"city": "Ulm"}<|call|>'
            "<|start|>assistant<|channel|>final<|message|>Done."
        )
    else:
        form = model(name)
        base = "<think>\nWell.\n</think>\n\n" + written(name, SHORT)
    for _ in range(60):
        text = base if chance.random() < 0.2 else damaged(base, chance)
        reasons = chance.random() < 0.2
        whole = parse(form, text, reasons=reasons)
        for cuts in (
            sorted(chance.randrange(len(text) + 1) for _ in range(5)),
            list(range(1, len(text))),
        ):
            assert parse(form, text, cuts, reasons=reasons) == whole, text
        # Letters outside of marks all come out, in their order.
        out = "".join(part.name if isinstance(part, CallBegin) else part.text for part in whole)
        for word in ("Well.", "Words", "no_such_tool", "and then"):
            assert out.count(word) == text.count(word), (text, whole)


def test_a_call_of_no_tool_is_text() -> None:
    text = '<tool_call>\n{"name": "rm", "arguments": {"path": "/"}}\n</tool_call>'
    assert parse(model("hermes"), text) == [Text(text)]
    assert parse(model("hermes"), text, tools={}) == [Text(text)]
    known = text.replace("rm", "stop")
    assert calls_of(parse(model("hermes"), text + known)) == [("stop", {"path": "/"})]


def test_a_call_that_is_cut_off_is_not_whole() -> None:
    parts = parse(model("hermes"), '<tool_call>\n{"name": "stop", "arguments": {"a": 1')
    assert [type(part) for part in parts] == [CallBegin, CallArguments]
    assert parts[1] == CallArguments('{"a": 1')
    begun = "<tool_call>\n<function=get_weather>\n<parameter=city>\nUlm\n"
    parts = parse(model("qwen3-coder"), begun)
    assert parts[1:] == [CallArguments("{"), Text("<parameter=city>\nUlm\n")]


def test_arguments_stream_as_they_come() -> None:
    parser = Parser(model("hermes"), SCHEMAS)
    assert parser.feed('<tool_call>\n{"name": "stop", "arguments": {"text": "abc')[1:] == [
        CallArguments('{"text": "abc')
    ]
    assert parser.feed("def") == [CallArguments("def")]


def test_text_goes_out_at_once_but_for_what_may_be_a_mark() -> None:
    parser = Parser(model("hermes"), SCHEMAS)
    assert parser.feed("one < two <tool") == [Text("one < two ")]
    assert parser.feed("s>") == [Text("<tools>")]


def test_values_of_tags_have_the_type_of_their_schema() -> None:
    call = (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n12\n</parameter>\n"
        "<parameter=days>\n12\n</parameter>\n<parameter=other>\nno json\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    assert calls_of(parse(model("qwen3-coder"), call)) == [
        ("get_weather", {"city": "12", "days": 12, "other": "no json"})
    ]


def test_llama_calls_only_where_the_answer_begins_with_one() -> None:
    call = '{"name": "stop", "parameters": {}}'
    assert calls_of(parse(model("llama"), call)) == [("stop", {})]
    assert calls_of(parse(model("llama"), "<|python_tag|>" + call)) == [("stop", {})]
    words = "In JSON: " + call
    assert parse(model("llama"), words) == [Text(words)]
    assert parse(model("llama"), '{"a": 1}') == [Text('{"a": 1}')]


def test_gpt_oss_channels() -> None:
    form = format_of(ChatTemplate(HARMONY))
    text = (
        "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.stop <|constrain|>json<|message|>{"a": 1}<|call|>'
    )
    parts = parse(form, text)
    assert parts[0] == Reasoning("Think.")
    assert calls_of(parts) == [("stop", {"a": 1})]
    final = "<|channel|>final<|message|>Hello."
    assert parse(form, final) == [Text("Hello.")]
    assert parse(form, text, separate=False)[0] == Text("Think.")


def test_reasoning_that_is_not_to_be_apart_stays_as_written() -> None:
    text = "<think>a</think>b"
    assert parse(model("hermes"), text, separate=False) == [Text(text)]
    assert parse(model("hermes"), text) == [Reasoning("a"), Text("b")]
    assert parse(model("hermes"), "see <think>a</think>") == [Text("see <think>a</think>")]


def test_a_template_without_tools_says_so() -> None:
    plain = _LOOP + "<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    form = format_of(ChatTemplate(plain))
    assert form.tools is None
    assert "knows no tools" in form.no_tools
    assert form.reasoning is None
    assert parse(form, "x <tool_call>") == [Text("x <tool_call>")]


def test_templates_that_only_tell_the_form() -> None:
    told = (
        "{% if xml_tools %}{{ xml_tools | tojson }} write <tool_call>{% endif %}"
        + _LOOP
        + "{{ m.content }}{% endfor %}"
    )
    form = format_of(ChatTemplate(told))
    assert form.tools is not None
    assert form.tools.variable == "xml_tools"
    assert form.tools.call_open == "<tool_call>\n"


def test_hostile_text_takes_no_time() -> None:
    for name in ("hermes", "llama", "qwen3-coder", "lfm2"):
        opening = written(name, SHORT).split("get_weather")[0]
        text = opening * 3000 + '{"a":' * 3000
        parts = parse(model(name), text, list(range(7, len(text), 7)))
        assert "".join(p.text for p in parts if isinstance(p, Text)).strip() == text.strip()


def test_marks_are_what_a_tokenizer_must_show() -> None:
    marks = model("hermes").markers
    assert {"<tool_call>\n", "</think>"} <= set(marks)
    assert model("llama").reasoning == ReasoningFormat("<think>", "</think>")
