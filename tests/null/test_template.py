"""Chat templates: what they print, and how the hostile ones end.

The templates here are written in the manner of the families' own, with the same constructs; the
expected texts are what transformers 5.23 (jinja2 3.1.6) renders. benchmarks/templates.py compares
with it on a folder of real ones.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pytest

from ridgeline.errors import ModelError, RequestError
from ridgeline.model.text.byte_level import byte_characters
from ridgeline.model.text.chat import ChatTemplate
from ridgeline.model.text.tokenizer import Tokenizer

USER = {"role": "user", "content": "Hi <b> & 'é'"}
ANSWER = {"role": "assistant", "content": " Yes? "}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1, "y": "ü"}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "<do> \"it\" & 'that'",
        "parameters": {"type": "object"},
    },
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

CHATML = """
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nDefault.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA_3 = """
{{- bos_token }}
{%- if not today is defined %}
    {%- set today = strftime_now("%d %b %Y") if strftime_now is defined else "never" %}
{%- endif %}
{%- set system = "" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system, messages = messages[0]['content'] | trim, messages[1:] %}
{%- endif %}
{{- "<|h|>system<|/h|>\\n\\nToday: " + today + "\\n" }}
{%- for tool in tools or [] %}
    {{- tool | tojson(indent=4) + "\\n\\n" }}
{%- endfor %}
{{- system + "<|eot|>" }}
{%- macro head(role) %}<|h|>{{ role }}<|/h|>{{ "\\n\\n" }}{% endmacro %}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length > 1 %}{{ raise_exception("one at a time") }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- head('assistant') ~ '{"name": "' ~ call.name ~ '", "parameters": ' }}
        {{- call.arguments | tojson ~ "}<|eot|>" }}
    {%- elif message.role == 'tool' %}
        {{- head('ipython') }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- endif %}
    {%- else %}
        {{- head(message.role) + message.content | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
"""
MISTRAL = """
{%- set told = messages | selectattr('role', 'equalto', 'system') %}
{%- set system = told | map(attribute='content') | first %}
{%- set turns = messages | rejectattr('role', 'in', ['system']) | list %}
{%- set asked = turns | selectattr('role', 'equalto', 'user') | list %}
{%- set state = namespace(users=0, answers=0) %}
{%- for turn in turns %}
    {%- if turn.role == 'user' %}{% set state.users = state.users + 1 %}
    {%- else %}{% set state.answers = state.answers + 1 %}{% endif %}
    {%- if state.users - state.answers not in (0, 1) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for turn in turns %}
    {%- if turn.role != 'user' %}
        {{- turn.content | trim ~ eos_token }}{% continue %}
    {%- endif %}
    {%- if tools is not none and turn == asked[-1] %}
        {{- '[T][' }}
        {%- for tool in tools %}
            {%- for key, value in tool.function.items() if key != 'return' %}
                {{- '"%s": %s' | format(key, value | tojson) ~ ('' if loop.last else ', ') }}
            {%- endfor %}
        {%- endfor %}
        {{- ']' }}
    {%- endif %}
    {{- '[I]' }}
    {%- if loop.last and system is defined %}{{ system + '\\n\\n' }}{% endif %}
    {{- turn.content + '[/I]' }}
{%- endfor %}
"""
QWEN_3 = """
{%- set state = namespace(found=false, last=-1) %}
{%- for message in messages[::-1] %}
    {%- if not state.found and message.role == "user" and not message.content.startswith('<t>') %}
        {%- set state.found, state.last = true, messages|length - loop.index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set text = message.content %}
    {%- if '</think>' in text %}
        {%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
        {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
        {%- if loop.index0 > state.last %}<think>{{ thought }}</think>{% endif %}
    {%- endif %}
    {{- loop.index0 ~ message.role ~ ':' ~ text ~ '|' }}
{%- endfor %}
{%- if add_generation_prompt %}a:
    {%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}
{%- endif %}
"""
GEMMA_3 = """
{{ bos_token }}
{%- set prefix, turns = '', messages -%}
{%- if messages[0].role == 'system' -%}
    {%- set text = messages[0].content -%}
    {%- set prefix = (text if text is string else text[0].text) ~ '\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn.role == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('roles must alternate') }}
    {%- endif -%}
    {{ '<t>' ~ {'assistant': 'model'}.get(turn.role, turn.role) ~ '\\n' }}
    {{- prefix if loop.first }}
    {%- for text in [turn.content] if text is string -%}
        {{ text | trim }}
    {%- else -%}
        {%- for part in turn.content if part.type in ('text', 'image') -%}
            {{ part.text | default('<image>') | trim }}
        {%- endfor -%}
    {%- endfor -%}
    {{ '</t>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%} {{ '<t>model\\n' }} {%- endif -%}
"""
PHI_3 = """{% for message in messages %}
{% if message['role'] == 'system' and message['content'] %}
{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}
{% elif message['role'] == 'user' %}
{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}
{% elif message['role'] == 'assistant' %}
  {% generation %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endgeneration %}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}
"""


def render(source: str, *messages: dict[str, Any], **variables: Any) -> str:
    return ChatTemplate(source, TOKENS).render(messages, **variables)


CALLS = {"role": "assistant", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": {"t": 3.5}}
THINK = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nok"}
PARTS = {
    "role": "user",
    "content": [
        {"type": "text", "text": " one "},
        {"type": "image"},
        {"type": "text", "text": "two"},
    ],
}
EXPECTED: list[tuple[str, list[dict[str, Any]], dict[str, Any], str]] = [
    (
        CHATML,
        [USER],
        {},
        (
            "<|im_start|>system\n"
            "Default.<|im_end|>\n"
            "<|im_start|>user\n"
            "Hi <b> & 'é'<|im_end|>\n"
            "<|im_start|>assistant\n"
        ),
    ),
    (
        CHATML,
        [SYSTEM, USER, ANSWER, USER],
        {"add_generation_prompt": False},
        (
            "<|im_start|>system\n"
            "Be brief.<|im_end|>\n"
            "<|im_start|>user\n"
            "Hi <b> & 'é'<|im_end|>\n"
            "<|im_start|>assistant\n"
            " Yes? <|im_end|>\n"
            "<|im_start|>user\n"
            "Hi <b> & 'é'<|im_end|>\n"
        ),
    ),
    (
        LLAMA_3,
        [SYSTEM, USER],
        {"today": "1 Jan"},
        (
            "<s><|h|>system<|/h|>\n"
            "\n"
            "Today: 1 Jan\n"
            "Be brief.<|eot|><|h|>user<|/h|>\n"
            "\n"
            "Hi <b> & 'é'<|eot|>"
        ),
    ),
    (
        LLAMA_3,
        [USER, ANSWER, USER],
        {"today": "1 Jan", "tools": [TOOL]},
        (
            "<s><|h|>system<|/h|>\n"
            "\n"
            "Today: 1 Jan\n"
            "{\n"
            '    "type": "function",\n'
            '    "function": {\n'
            '        "name": "f",\n'
            '        "description": "<do> \\"it\\" & \'that\'",\n'
            '        "parameters": {\n'
            '            "type": "object"\n'
            "        }\n"
            "    }\n"
            "}\n"
            "\n"
            "<|eot|><|h|>user<|/h|>\n"
            "\n"
            "Hi <b> & 'é'<|eot|><|h|>assistant<|/h|>\n"
            "\n"
            "Yes?<|eot|><|h|>user<|/h|>\n"
            "\n"
            "Hi <b> & 'é'<|eot|>"
        ),
    ),
    (
        LLAMA_3,
        [USER, CALLS, RESULT],
        {"today": "1 Jan"},
        (
            "<s><|h|>system<|/h|>\n"
            "\n"
            "Today: 1 Jan\n"
            "<|eot|><|h|>user<|/h|>\n"
            "\n"
            "Hi <b> & 'é'<|eot|><|h|>assistant<|/h|>\n"
            "\n"
            '{"name": "f", "parameters": {"x": 1, "y": "ü"}}<|eot|><|h|>ipython<|/h|>\n'
            "\n"
            '{"t": 3.5}'
        ),
    ),
    (
        MISTRAL,
        [SYSTEM, USER, ANSWER, USER],
        {},
        ("<s>[I]Hi <b> & 'é'[/I]Yes?</s>[I]Be brief.\n\nHi <b> & 'é'[/I]"),
    ),
    (
        MISTRAL,
        [USER],
        {"tools": [TOOL]},
        (
            '<s>[T]["name": "f", "description": "<do> \\"it\\" & \'that\'", "parameters": {"type"'
            ": \"object\"}][I]Hi <b> & 'é'[/I]"
        ),
    ),
    (
        QWEN_3,
        [USER, THINK, USER],
        {},
        ("0user:Hi <b> & 'é'|1assistant:ok|2user:Hi <b> & 'é'|a:"),
    ),
    (
        QWEN_3,
        [USER, THINK],
        {"add_generation_prompt": False},
        ("0user:Hi <b> & 'é'|<think>hm</think>1assistant:ok|"),
    ),
    (
        QWEN_3,
        [USER],
        {"enable_thinking": False},
        ("0user:Hi <b> & 'é'|a:<think></think>"),
    ),
    (
        GEMMA_3,
        [SYSTEM, USER, ANSWER, PARTS],
        {},
        (
            "\n"
            "<s><t>user\n"
            "Be brief.\n"
            "\n"
            "Hi <b> & 'é'</t>\n"
            "<t>model\n"
            "Yes?</t>\n"
            "<t>user\n"
            "one<image>two</t>\n"
            "<t>model\n"
        ),
    ),
    (
        PHI_3,
        [SYSTEM, USER, ANSWER, USER],
        {},
        (
            "<|system|>\n"
            "Be brief.<|end|>\n"
            "\n"
            "<|user|>\n"
            "Hi <b> & 'é'<|end|>\n"
            "\n"
            "<|assistant|>\n"
            " Yes? <|end|>\n"
            "<|user|>\n"
            "Hi <b> & 'é'<|end|>\n"
            "\n"
            "<|assistant|>\n"
        ),
    ),
    (
        PHI_3,
        [USER, ANSWER],
        {"add_generation_prompt": False},
        ("<|user|>\nHi <b> & 'é'<|end|>\n\n<|assistant|>\n Yes? <|end|>\n</s>"),
    ),
]


@pytest.mark.parametrize(
    ("source", "messages", "variables", "expected"),
    EXPECTED,
)
def test_templates_print_what_transformers_prints(
    source: str, messages: list[dict[str, Any]], variables: dict[str, Any], expected: str
) -> None:
    assert render(source, *messages, **variables) == expected


def test_today_is_told() -> None:
    assert datetime.now().strftime("%d %b %Y") in render(LLAMA_3, USER)


# What a template prints of its own accord


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "{{ none }} {{ true }} {{ 1.0 }} {{ [1, 'a', none] }} {{ {'a': 1} }}",
            "None True 1.0 [1, 'a', None] {'a': 1}",
        ),
        (
            "{{ missing }}|{{ missing is defined }}|{{ messages[9] }}|{{ messages[0].nothing }}",
            "|False||",
        ),
        (
            "{{ 7 // 2 }} {{ 7 / 2 }} {{ 4 / 2 }} {{ -7 % 3 }} {{ 2 ** 8 }} {{ 'a' * 3 "
            "}} {{ '%s-%03d' % ('x', 7) }}",
            "3 3.5 2.0 2 256 aaa x-007",
        ),
        (
            "{{ 1 < 2 < 3 }} {{ 1 in [1] }} {{ 'a' not in 'abc' }} {{ not 0 or x }} {{ 2 if 0 }}",
            "True True False True ",
        ),
        (
            "{% for i in 'ab' %}{{ loop.index }}{{ loop.first }}{{ loop.cycle('x', 'y') "
            "}}{{ loop.nextitem }}{% endfor %}",
            "1Truexb2Falsey",
        ),
        (
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i > 2 %}{% "
            "break %}{% endif %}{{ i }}{% endfor %}",
            "02",
        ),
        (
            "{% for i in [] %}{% else %}none{% endfor %}{% for k, v in {'a': 1}.items() "
            "%}{{ k }}{{ v }}{% endfor %}",
            "nonea1",
        ),
        (
            "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x "
            "}}{% if 1 %}{% set x = 3 %}{% endif %}{{ x }}",
            "213",
        ),
        (
            "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro "
            "%}{{ m(1) }}{{ m(1, 3, 4, c=5) }}",
            "12(){}13(4,){'c': 5}",
        ),
        (
            "{% macro m() %}<{{ caller('x') }}>{% endmacro %}{% call(y) m() %}{{ y }}!{% "
            "endcall %}",
            "<x!>",
        ),
        (
            "{% set x | upper %}a{% endset %}{{ x }}{% filter trim %} b {% endfilter "
            "%}{% with z = 1 %}{{ z }}{% endwith %}{{ z }}",
            "Ab1",
        ),
        ("{% raw %}{{ x }}{% endraw %}{# gone #}{{ '{' }}", "{{ x }}{"),
        (
            "{{ ' a-b c'.strip().split('-') }}{{ 'abc'[::-1] }}{{ 'a b'.title() }}{{ "
            "'{}-{x}'.format(1, x=2) }}",
            "['a', 'b c']cbaA B1-2",
        ),
        (
            "{{ {'b': 1, 'a': [1, {'c': none}]} | tojson }}{{ 'é<>' | tojson }}{{ [1] | "
            "tojson(indent=1) }}",
            '{"b": 1, "a": [1, {"c": null}]}"é<>"[\n 1\n]',
        ),
        (
            "{{ [3, 1, 2] | sort | join(',') }} {{ {'b': 1, 'a': 2} | dictsort }} {{ "
            "['a', 'B', 'A'] | unique | list }}",
            "1,2,3 [('a', 2), ('b', 1)] ['a', 'B']",
        ),
        (
            "{{ [1, 2] | first }}{{ [1, 2] | last }}{{ [1, 2] | sum }}{{ [1, 2] | max "
            "}}{{ [] | first }}{{ '5' | int + 1 }}{{ 2.5 | round }}",
            "12326" + "2.0",
        ),
        (
            "{{ 'a\nb' | indent }}|{{ 'a\nb' | indent(1, true) }}|{{ 'abc' | "
            "replace('b', 'x') }}|{{ ' x ' | trim }}|{{ 'ab' | list }}",
            "a\n    b| a\n b|axc|x|['a', 'b']",
        ),
        (
            "{{ [1, none] | map('string') | list }}{{ [{'a': {'b': 1}}] | "
            "map(attribute='a.b') | list }}{{ [0, 1] | select | list }}",
            "['1', 'None'][1][1]",
        ),
        (
            "{% if [] | select %}an iterator is true{% endif %}{{ x | default('d') }}{{ "
            "'' | default('e', true) }}",
            "an iterator is truede",
        ),
        (
            "{{ namespace(a=1).a }}{{ dict(a=1).a }}{{ {'items': 1}['items'] }}{{ {'k': "
            "1}.k }}{{ {'k': 1}.get('z', 2) }}",
            "11112",
        ),
        (
            "{{ 1 is number }}{{ 'a' is sequence }}{{ {} is mapping }}{{ none is none "
            "}}{{ 3 is odd }}{{ true is boolean }}{{ 1 is string }}",
            "True" * 6 + "False",
        ),
        ("  {% if true %}\n  a\n  {% endif %}\nb\n", "  a\nb"),
    ],
)
def test_the_language_is_jinja2s(source: str, expected: str) -> None:
    assert render(source, USER) == expected


# Content as parts


def test_text_parts_are_joined_for_a_template_that_knows_strings() -> None:
    parts = {
        "role": "user",
        "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
    }
    assert "user\none\ntwo<|im_end|>" in render(CHATML, parts)
    assert "user\nonetwo</t>" in render(GEMMA_3, parts)
    with pytest.raises(RequestError, match=r"messages\[0\]\.content\[1\].*'image'"):
        render(CHATML, PARTS)


# Errors: one line each


@pytest.mark.parametrize(
    ("source", "messages", "error", "line"),
    [
        (GEMMA_3, [USER, USER], RequestError, "messages: .*roles must alternate"),
        (CHATML, [{"role": "user", "content": None}], ModelError, "template, line 6: .*NoneType"),
        (CHATML, [{"role": "user"}], ModelError, "line 6: .*no attribute 'content'"),
        (CHATML, [{"content": "x"}], RequestError, r"messages\[0\]\.role"),
        (CHATML, ["x"], RequestError, r"messages\[0\]: must be an object"),
        (
            CHATML,
            [{"role": "user", "content": 3}],
            RequestError,
            r"messages\[0\]\.content: must be",
        ),
        (CHATML, [{"role": "user", "content": "", "x": object()}], RequestError, "type object"),
        ("{% if %}", [USER], ModelError, "line 1"),
        ("a\n{{ x", [USER], ModelError, "line 2"),
        ("{% endfor %}", [USER], ModelError, "endfor"),
        ("{% break %}", [USER], ModelError, "outside of a loop"),
        (
            "{% macro f() %}{% continue %}{% endmacro %}{% for m in [1] %}{{ f() }}{% endfor %}",
            [USER],
            ModelError,
            "outside of a loop",
        ),
        ("{{ x.y.z }}", [USER], ModelError, "'x' is undefined"),
        ("{{ x() }}", [USER], ModelError, "'x' is undefined"),
        ("{{ 1 | nothing }}", [USER], ModelError, "no filter named 'nothing'"),
        ("{{ 1 is nothing }}", [USER], ModelError, "no test named 'nothing'"),
        ("{{ 1 / 0 }}", [USER], ModelError, "division by zero"),
        ("{% include 'x' %}", [USER], ModelError, "include is not allowed"),
        ("{% import 'x' as y %}", [USER], ModelError, "import is not allowed"),
        ("{% extends 'x' %}", [USER], ModelError, "extends is not allowed"),
    ],
)
def test_faults_are_one_line(
    source: str, messages: list[Any], error: type[Exception], line: str
) -> None:
    with pytest.raises(error, match=line) as caught:
        render(source, *messages)
    assert "\n" not in str(caught.value)
    if error is ModelError:
        assert "--raw" in str(caught.value)


def test_a_model_without_a_template_says_so() -> None:
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": byte_characters(),
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 1,
    }
    with pytest.raises(ModelError, match="no chat template; use --raw"):
        ChatTemplate.of(Tokenizer.from_gguf(metadata))
    metadata["tokenizer.chat_template"] = "{{ bos_token }}|{{ eos_token }}"
    template = ChatTemplate.of(Tokenizer.from_gguf(metadata))
    assert template.render([USER]) == byte_characters()[1] + "|"


# Hostile templates end

DOUBLE = "{% set n = namespace(v=START) %}{% for i in range(99) %}{% set n.v = GROW %}{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{{ range(10**9) | length }}",
        "{{ 'a' * 10**9 }}",
        "{{ 10**9 * 'a' }}",
        "{{ [0] * 10**9 }}",
        "{{ 9 ** 999999 }}",
        "{{ (2 ** 4000) * (2 ** 4000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%.1000000000f' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{0:{1}}'.format(1, 1000000000) }}",
        "{{ ('{0}' * 9999).format('a' * 99999) }}",
        "{{ 'a' | indent(10**9, true) }}",
        "{{ ('a\n' * 99999) | indent('b' * 9999) }}",
        "{{ [[[1]]] | tojson(indent=10**9) }}",
        "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
        "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
        "{{ ('a' * 99999).join('b' * 99999) }}",
        "{{ ('b' * 99999) | join('a' * 99999) }}",
        "{{ ('b' * 99999) | join(d='a' * 99999) }}",
        "{{ 1 | round(10**9) }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% macro a() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}",
        "{% for i in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ " + "-" * 3000 + "1 }}",
        "{{ x" + ".y" * 50_000 + " }}",
        "{{ 1" + " + 1" * 50_000 + " }}",
        "{% if 1 %}" * 3000,
        "x" * (1 << 19),
        DOUBLE.replace("START", "'x'").replace("GROW", "n.v ~ n.v"),
        DOUBLE.replace("START", "'x'").replace("GROW", "n.v + n.v"),
        DOUBLE.replace("START", "'a'").replace("GROW", "'{0}{0}'.format(n.v)"),
        DOUBLE.replace("START", "'a'").replace("GROW", "'%s%s' | format(n.v, n.v)"),
        DOUBLE.replace("START", "'a'").replace("GROW", "[n.v, n.v] | join"),
        DOUBLE.replace("START", "[1]").replace("GROW", "n.v + n.v"),
        DOUBLE.replace("START", "(1,)").replace("GROW", "n.v + n.v"),
        DOUBLE.replace("START", "1").replace("GROW", "[n.v, n.v]") + "{{ n.v }}",
        DOUBLE.replace("START", "1").replace("GROW", "[n.v, n.v]") + "{{ n.v | tojson }}",
        DOUBLE.replace("START", "1").replace("GROW", "[n.v, n.v]") + "{{ n.v == [n.v] }}",
        DOUBLE.replace("START", "1").replace("GROW", "[n.v, n.v]")
        + "{{ n.v in [[n.v]] | map('list') }}",
        DOUBLE.replace("START", "1").replace("GROW", "(n.v, n.v)") + "{{ {n.v: 1} }}",
        DOUBLE.replace("START", "1").replace("GROW", "(n.v, n.v)") + "{{ {}[n.v] }}",
        DOUBLE.replace("START", "1").replace("GROW", "(n.v, n.v)") + "{{ {}.get(n.v) }}",
        DOUBLE.replace("START", "1").replace("GROW", "(n.v, n.v)") + "{{ [n.v] | unique | list }}",
        "{% set n = namespace(v=1) %}{% for i in range(90000) %}{% set n.v = [n.v] %}{% "
        "endfor %}{{ n.v }}",
        "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{% set l = messages.append(1) %}",
        "{{ strftime_now('%1000000000d') }}",
        "{{ raise_exception }}",
        "{{ messages.append }}",
    ],
)
def test_hostile_templates_end_in_an_error(source: str) -> None:
    with pytest.raises(ModelError, match="chat template") as caught:
        render(source, USER)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ messages.__class__ }}",
        "{{ messages[0].__class__.__mro__ }}",
        "{{ messages['__class__'] }}",
        "{{ messages | map(attribute='__class__') | list }}",
        "{{ messages | selectattr('__class__') | list }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['__builtins__'] }}",
        "{{ range.__self__ }}",
        "{{ namespace().__init__ }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{0[0]}'.format([1]) }}",
        "{{ self.__init__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum.__globals__ }}",
        "{{ messages | attr('__class__') }}",
        "{{ [].sort }}",
        "{{ ''.encode() }}",
        "{{ loop }}",
        "{% for m in messages %}{{ loop.items }}{{ loop.place }}{% endfor %}",
        "{% macro m() %}{% endmacro %}{{ m.scope }}{{ m.body }}{{ m.__class__ }}",
    ],
)
def test_no_template_reaches_python(source: str) -> None:
    try:
        text = render(source, USER)
    except ModelError as error:
        text = str(error)
    assert not re.search(r"<class|<function|<built-in|<bound|0x[0-9a-f]+|builtins", text)


def test_messages_are_not_changed() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    render(CHATML, message)
    assert message == {"role": "user", "content": [{"type": "text", "text": "x"}]}


def test_messages_nested_without_end_are_refused() -> None:
    nested: list[Any] = []
    nested.append(nested)
    with pytest.raises(RequestError, match="nested more than"):
        render(CHATML, {"role": "user", "content": "x", "extra": nested})


def test_a_long_conversation_has_the_work_it_needs() -> None:
    messages = [
        {"role": ("user", "assistant")[place % 2], "content": "x" * 2000} for place in range(999)
    ]
    assert len(render(CHATML, *messages)) > 2_000_000
