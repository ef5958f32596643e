"""Grammars in GBNF, llama.cpp's form, as Lark, which masks are made of."""

from __future__ import annotations

from ridgeline.engine.constrain.structured import MAX_GRAMMAR_CHARACTERS
from ridgeline.errors import RequestError


def lark_of_gbnf(grammar: str, field: str) -> str:
    """Raises RequestError, naming `field`, for what is not GBNF."""
    from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

    if len(grammar) > MAX_GRAMMAR_CHARACTERS:
        raise RequestError(field, f"has more than {MAX_GRAMMAR_CHARACTERS} characters")
    try:
        return gbnf_to_lark(grammar)
    except (GbnfToLarkError, ValueError, IndexError, KeyError) as error:
        line = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise RequestError(field, f"is not GBNF: {line}") from None
    except RecursionError:
        raise RequestError(field, "is nested too deeply") from None
