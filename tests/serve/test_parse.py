"""What models write becomes text, reasoning and calls; however it is cut, nothing is lost."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ridgeline.model.text.chat import ChatTemplate
from ridgeline.serve.parse.derive import format_of
from ridgeline.serve.parse.format import ReasoningFormat
from ridgeline.serve.parse.parser import Parser
from ridgeline.serve.parse.parts import CallArguments, CallBegin, Reasoning, Text, folded
from serve.model_outputs import (
    HARMONY,
    LOOP,
    SCHEMAS,
    SHORT,
    TEMPLATES,
    WEATHER,
    calls_of,
    model,
    parse,
    written,
)


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
    plain = LOOP + "<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    form = format_of(ChatTemplate(plain))
    assert form.tools is None
    assert "knows no tools" in form.no_tools
    assert form.reasoning is None
    assert parse(form, "x <tool_call>") == [Text("x <tool_call>")]


def test_templates_that_only_tell_the_form() -> None:
    told = (
        "{% if xml_tools %}{{ xml_tools | tojson }} write <tool_call>{% endif %}"
        + LOOP
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


def test_braces_are_read_however_they_are_written() -> None:
    def read(arguments: str) -> list[tuple[str, Any]]:
        return calls_of(
            parse(model("gemma 4"), f"<|tool_call>call:get_weather{arguments}<tool_call|>")
        )

    q = '<|"|>'
    for written_so, meant in (
        (f"{{city:{q}Ulm{q},days:3}}", {"city": "Ulm", "days": 3}),
        (f'{{ "city" : {q}a, b}}{q} , days : null }}', {"city": "a, b}", "days": None}),
        (
            f'{{city:"Ul\\"m",where:{{{q}x{q}:[1,-2.5e3,true]}}}}',
            {"city": 'Ul"m', "where": {"x": [1, -2500.0, True]}},
        ),
        ("{city:Ulm,days:None}", {"city": "Ulm", "days": None}),
        ("{}", {}),
    ):
        assert read(written_so) == [("get_weather", meant)]
    for broken in ("{city}", "{city:1,city:2}", "{city:[1", "{:1}", "{city:1 2}"):
        parts = parse(model("gemma 4"), f"<|tool_call>call:get_weather{broken}<tool_call|>")
        arguments = "".join(part.text for part in parts if isinstance(part, CallArguments))
        with pytest.raises(ValueError, match="Expecting"):
            json.loads(arguments)
    deep = "{where:" + "[" * 5000
    assert parse(model("gemma 4"), f"<|tool_call>call:get_weather{deep}")


def test_marks_that_say_what_is_text_are_heeded() -> None:
    def read(mark: str, value: str) -> Any:
        call = (
            '<｜DSML｜function_calls>\n<｜DSML｜invoke name="free">\n<｜DSML｜parameter name="a" '
            f'string="{mark}">{value}</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>'
        )
        ((name, arguments),) = calls_of(parse(model("deepseek v3.2"), call, tools={"free": {}}))
        assert name == "free"
        return arguments["a"]

    assert read("true", "71") == "71"
    assert read("false", "71") == 71
    assert read("true", '{"b": 1}') == '{"b": 1}'
    assert read("false", '{"b": 1}') == {"b": 1}


def test_an_answer_that_is_one_bare_call_is_a_call() -> None:
    """Qwen's coders leave out the marks; whatever else an answer is stays text, every character."""
    form = model("hermes")
    call = '{"name": "f", "arguments": {"a": "x } \\" y"}}'

    def parts_of(text: str, size: int) -> list[Any]:
        parser = Parser(form, {"f": {"type": "object"}})
        found = []
        for at in range(0, len(text), size):
            found += parser.feed(text[at : at + size])
        return folded(found + parser.finish())

    texts = [
        f"{call} and more",
        f"```json\n{call}\n```",
        f"{call}{call}",
        '{"name": "g", "arguments": {}}',
        '{"name": "f", "arguments": "x"}',
        '{"name": "f", "arguments": {}, "why": 1}',
        '{"name": "f"}',
        '{"arguments": {}, "arguments": {}}',
        '{"name": "f", "arguments": {"a": 1',
        '{"other": 1}',
        "{}",
        " { no JSON }",
    ]
    for size in (1, 3, 1000):
        for text in (call, f"\n {call}\n", '{"arguments": {"b": 1}, "name": "f"}'):
            begin, arguments = parts_of(text, size)
            assert begin.name == "f"
            assert json.loads(arguments.text) == json.loads(text)["arguments"]
        for text in texts:
            assert parts_of(text, size) == [Text(text)]
    waiting = Parser(form, {"f": {"type": "object"}})
    assert folded(waiting.feed('{"other": 1, ')) == [Text('{"other": 1, ')]


def test_a_bare_call_keeps_to_its_tools_schema_or_is_text() -> None:
    schema = {
        "type": "object",
        "properties": {"at": {"enum": ["a", "b"]}, "size": {"type": "integer", "minimum": 1}},
        "required": ["at"],
        "additionalProperties": False,
    }
    for arguments, is_call in (
        ('{"at": "a"}', True),
        ('{"size": 2, "at": "b"}', True),  # no order is asked for
        ('{"at": "c"}', False),
        ('{"size": 2}', False),
        ('{"at": "a", "size": 0}', False),
        ('{"at": "a", "more": 1}', False),
        ('{"at": "a", "size": "2"}', False),
    ):
        text = f'{{"name": "f", "arguments": {arguments}}}'
        parts = parse(model("hermes"), text, [9], tools={"f": schema})
        assert (folded(parts) != [Text(text)]) == is_call, text
