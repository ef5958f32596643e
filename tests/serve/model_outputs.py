"""Templates of the model families, as short as they can be, and what they print for calls."""

from __future__ import annotations

import json
from typing import Any

from ridgeline.model.text.chat import ChatTemplate
from ridgeline.serve.parse.derive import format_of
from ridgeline.serve.parse.format import ModelFormat
from ridgeline.serve.parse.parser import Parser
from ridgeline.serve.parse.parts import CallArguments, CallBegin, Part, folded

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
LOOP = "{% for m in messages %}"
_TOOLS = "{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}"


def template(call: str, *, between: str = "", around: tuple[str, str] = ("", "")) -> str:
    joined = "{% if not loop.last %}" + between + "{% endif %}"
    calls = "{% for c in m.tool_calls %}{% set f = c.function %}" + call + joined + "{% endfor %}"
    return (
        _TOOLS
        + LOOP
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
# Arguments that are no JSON: texts between marks of their own.
_BRACED = (
    "{% macro value(v) %}{% if v is string %}Q{{ v }}Q{% elif v is boolean %}"
    "{{ 'true' if v else 'false' }}{% elif v is mapping %}{{ '{' }}{% for k, x in v | dictsort %}"
    "{{ k }}:{{ value(x) }}{% if not loop.last %},{% endif %}{% endfor %}{{ '}' }}"
    "{% elif v is sequence %}[{% for x in v %}{{ value(x) }}{% if not loop.last %},{% endif %}"
    "{% endfor %}]{% else %}{{ v }}{% endif %}{% endmacro %}"
)
TEMPLATES["gemma 4"] = _BRACED.replace("Q", '<|"|>') + template(
    "<|tool_call>call:{{ f.name }}{{ value(f.arguments) }}<tool_call|>"
)
TEMPLATES["functiongemma"] = _BRACED.replace("Q", "<escape>") + template(
    "<start_function_call>call:{{ f.name }}{{ value(f.arguments) }}<end_function_call>"
)
TEMPLATES["deepseek v3.2"] = template(
    '<｜DSML｜invoke name="{{ f.name }}">\n'
    + _PAIRS
    + """<｜DSML｜parameter name="{{ k }}" string="{{ 'true' if v is string else 'false' }}">"""
    "{{ v if v is string else v | tojson }}</｜DSML｜parameter>\n{% endfor %}</｜DSML｜invoke>\n",
    around=("<｜DSML｜function_calls>\n", "</｜DSML｜function_calls>"),
)
_THINKS = "{# <think> </think> #}"
HARMONY = (
    _TOOLS + "{# functions. <|channel|> <|message|> #}" + LOOP + "<|start|>{{ m.role }}<|message|>"
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
