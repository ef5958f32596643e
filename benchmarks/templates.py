"""Chat templates beside transformers', on a folder of real ones.

usage: templates.py FOLDER    (files *.jinja; needs transformers and jinja2, but no torch)

Renders every template on conversations with and without a system message, tools, tool calls,
thoughts and a generation prompt, on both sides, and prints how many texts are the same, how many
both sides refuse, and each that differs (there should be none but templates that count on an engine
other than jinja2).
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ridgeline.errors import RidgelineError
from ridgeline.model.text.chat import ChatTemplate

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str | None, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def call(arguments: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {"id": "call12345", "type": "function", "function": function}


SYSTEM = {"role": "system", "content": " Be brief. "}
RESULT = {"role": "tool", "name": "weather", "tool_call_id": "call12345", "content": '{"t": 3.5}'}
CALL = call({"city": "Zürich", "days": 2})
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'The <weather> & "more" of a city\'s naïve café',
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "which"},
                    "days": {"type": "integer", "enum": [1, 2, 3]},
                    "unit": {"type": ["string", "null"]},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "noop", "description": "", "parameters": {"type": "object"}},
    },
]
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "empty": [],
    "user": [user("Hello <b> & 'you' \"é\" 日本")],
    "system": [SYSTEM, user("Hi")],
    "turns": [user("one"), assistant("two"), user("three")],
    "spaces": [SYSTEM, user("  one\n"), assistant("two "), user("three")],
    "answered": [user("one"), assistant("two")],
    "thought": [user("q"), assistant("<think>\nhm\n</think>\n\nanswer"), user("next")],
    "roles": [user("one"), user("two")],
    "call": [user("w?"), assistant("", tool_calls=[CALL]), RESULT, user("and?")],
    "call-none": [SYSTEM, user("w?"), assistant(None, tool_calls=[CALL]), RESULT],
    "call-text": [user("w?"), assistant("x", tool_calls=[call('{"city": "Rome"}')]), RESULT],
    "calls": [user("w?"), assistant("", tool_calls=[CALL, CALL]), RESULT, RESULT],
}


def theirs(source: str, messages: list[dict[str, Any]], **variables: Any) -> str | None:
    from transformers.utils.chat_template_utils import (  # type: ignore[import-not-found]
        render_jinja_template,
    )

    try:
        texts, _ = render_jinja_template(
            [copy.deepcopy(messages)], chat_template=source, **TOKENS, **copy.deepcopy(variables)
        )
    except Exception:
        return None
    return str(texts[0])


def ours(source: str, messages: list[dict[str, Any]], **variables: Any) -> str | None:
    try:
        return ChatTemplate(source, TOKENS).render(messages, **variables)
    except RidgelineError:
        return None


def main(folder: Path) -> int:
    counts: Counter[str] = Counter()
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text("utf-8")
        for name, messages in CONVERSATIONS.items():
            for tools in (None, TOOLS):
                for prompt in (True, False):
                    variables = {"tools": tools, "add_generation_prompt": prompt}
                    expected = theirs(source, messages, **variables)
                    actual = ours(source, messages, **variables)
                    same = "same" if expected is not None else "both refuse"
                    counts[same if expected == actual else "different"] += 1
                    if expected != actual:
                        print(f"{path.name} {name} tools={tools is not None} prompt={prompt}:")
                        print(f"  transformers {expected!r:.300}\n  ours {actual!r:.300}")
    print(dict(counts))
    return 1 if counts["different"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
