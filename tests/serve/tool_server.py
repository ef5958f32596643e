"""A process that serves a tiny model with a template that knows tools and reasoning.

python tests/serve/tool_server.py STATE_FOLDER prints its port, and serves until it is ended. While
there is a file STATE_FOLDER/hold, no answer gets longer than some tokens, however fast the machine.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path

from ridgeline.model.text.chat import ChatTemplate
from ridgeline.serve.core.core import Core, ServeOptions
from ridgeline.serve.core.keys import Keys, Tenant
from ridgeline.serve.server import listen, serve

TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>"
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n'
    "</tool_call>{% if not loop.last %}\n{% endif %}{% endfor %}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}{# <think> </think> #}"
)
KEY = "key-of-the-tests"
SINGLE_KEY = "key-of-one-at-once"
HELD_TOKENS = 48


def main() -> None:
    from gate import hold
    from serve.tiny import tiny_llm

    llm = tiny_llm()
    # The tiny vocabulary has no "}", without which no JSON object ends: in place of "he" it has.
    llm.tokenizer._known[125] = b"}"
    llm.prompts._template = ChatTemplate(TEMPLATE)
    tenants = {KEY: Tenant("key-0"), SINGLE_KEY: Tenant("single", max_concurrent=1)}
    keys = Keys((sha256(key.encode()).digest(), tenant) for key, tenant in tenants.items())
    options = ServeOptions(("tiny", "alias"), keys=keys, state=Path(sys.argv[1]))
    hold(llm, (Path(sys.argv[1]) / "hold").exists, HELD_TOKENS)
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    serve(Core(llm, options), listening, lambda: print(port, flush=True))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
