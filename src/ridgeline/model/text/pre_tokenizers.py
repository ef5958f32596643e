"""How byte-level BPE text is cut into words before merging: one list of regular expressions a
pre-tokenizer.

Each expression of a list cuts the pieces that the one before left; what it does not match stays a
piece. The names are GGUF's (`tokenizer.ggml.pre`). Letter, number, mark, punctuation and symbol
mean Unicode 15.1's, on which llama.cpp's tables stand: Oniguruma's are newer, and a character
assigned since would be cut differently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ridgeline.errors import ModelError

_PROPERTIES = ("L", "N", "M", "P", "S")
# The letters, numbers, marks, punctuation and symbols that Unicode 16.0 added (its DerivedAge.txt).
_SINCE_UNICODE_16 = (
    "897 1b4e-1b4f 1b7f 1c89-1c8a 2427-2429 31e4-31e5 a7cb-a7cd a7da-a7dc 105c0-105f3"
    " 10d40-10d65 10d69-10d85 10d8e-10d8f 10ec2-10ec4 10efc 11380-11389 1138b 1138e"
    " 11390-113b5 113b7-113c0 113c2 113c5 113c7-113ca 113cc-113d5 113d7-113d8 113e1-113e2"
    " 116d0-116e3 11bc0-11be1 11bf0-11bf9 11f5a 13460-143fa 16100-16139 16d40-16d79 18cff"
    " 1cc00-1ccf9 1cd00-1ceb3 1e5d0-1e5fa 1e5ff 1f8b2-1f8bb 1f8c0-1f8c1 1fa89 1fa8f 1fabe"
    " 1fac6 1fadc 1fadf 1fae9 1fbcb-1fbef"
)


def _spelled(spans: str) -> str:
    """Spans of code points as a character class has them."""
    return "".join("-".join(rf"\x{{{e}}}" for e in span.split("-")) for span in spans.split())


_NEWER = _spelled(_SINCE_UNICODE_16)

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
_QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
_QWEN35 = (
    _CONTRACTION
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    + r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The published expressions tell upper from lower case in every script; GGUF's readers only in
# ASCII.
_UPPER, _LOWER = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"
_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    + _CASED_TAIL
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?|\p{{N}}{{1,3}}"
) + _CASED_TAIL
_ASCII_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    _ASCII_PUNCTUATION + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
# As published: Han apart, other letters by case, digits by three.
_KIMI_UPPER = r"[[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]&&[^\p{Han}]]"
_KIMI_LOWER = r"[[\p{Ll}\p{Lm}\p{Lo}\p{M}]&&[^\p{Han}]]"
_KIMI_K2 = (
    rf"\p{{Han}}+|[^\r\n\p{{L}}\p{{N}}]?{_KIMI_UPPER}*{_KIMI_LOWER}+{_CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_KIMI_UPPER}+{_KIMI_LOWER}*{_CONTRACTION}?|\p{{N}}{{1,3}}"
) + _TAIL
# Letters with a case, but for those of scripts that its list leaves out; ASCII's and full-width
# punctuation; the white space at a text's end.
_LEFT_OUT = (
    "560-588 10c7 10cd 10d0-10ff 1c80-1c8a 2d00-2d2d a790-a7fa ab30-ab68 10570-105bc 10d50-10d85"
    " 16e40-16e7f 1d400-1d7cb 1df00-1df2a"
)
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[\p{{Lu}}\p{{Ll}}\p{{Lt}}&&[^{_spelled(_LEFT_OUT)}]]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    "[一-龥ࠀ-一가-퟿]+",
    r"\p{N}+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿&&[^\s]]+", r"\p{N}")
_DIGITS_APART = (r"\p{N}", _GPT2)

EXPRESSIONS: Mapping[str, Sequence[str]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "dbrx": (_LLAMA3,),
    "deepseek-coder": _DEEPSEEK_CODER,
    "deepseek-llm": _DEEPSEEK_LLM,
    "deepseek-r1-qwen": (_QWEN2,),
    "deepseek-v3": _DEEPSEEK_V3,
    "exaone": _DIGITS_APART,
    "exaone4": (_GPT2,),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"),
    "falcon-h1": (_LLAMA3,),
    "falcon3": (_LLAMA3,),
    "glm4": (_LLAMA3,),
    "glm5": (_LLAMA3,),
    "gpt-2": (_GPT2,),
    "gpt-4o": (_GPT4O,),
    "grok-2": (_QWEN2,),
    "command-r": _DIGITS_APART,
    "codeshell": _DIGITS_APART,
    "hunyuan": (_QWEN2,),
    "hunyuan-dense": _DEEPSEEK_V3,
    "kimi-k2": (_KIMI_K2,),
    "lfm2": (_LLAMA3,),
    "llama-bpe": (_LLAMA3,),
    "llama-v3": (_LLAMA3,),
    "llama3": (_LLAMA3,),
    "llama4": (_GPT4O,),
    "megrez": (_QWEN2,),
    "midm-2.0": (_LLAMA3,),
    "minerva-7b": _DIGITS_APART,
    "minimax-m2": (_GPT4O,),
    "modern-bert": (_GPT2,),
    "mpt": (_GPT2,),
    "olmo": (_GPT2,),
    "phi-2": (_GPT2,),
    "pixtral": (_LLAMA3,),
    "qwen2": (_QWEN2,),
    "qwen35": (_QWEN35,),
    "refact": _DIGITS_APART,
    "smaug-bpe": (_LLAMA3,),
    "smollm": _DIGITS_APART,
    "solar-open": (_QWEN2,),
    "stablelm2": (_QWEN2,),
    "starcoder": _DIGITS_APART,
    "tekken": (_TEKKEN,),
    "trillion": (_GPT2,),
}

# A word that is a token as it stands is that token, whatever its merges would make of it.
IGNORES_MERGES = frozenset(
    (
        "falcon-h1",
        "falcon3",
        "glm4",
        "glm5",
        "lfm2",
        "llama-bpe",
        "llama-v3",
        "llama3",
        "midm-2.0",
        "pixtral",
        "tekken",
    )
)


def expressions_of(pre: str) -> list[str]:
    """The expressions of pre-tokenizer `pre`, in Oniguruma's syntax. Raises `ModelError` listing
    what is known.
    """
    if pre not in EXPRESSIONS:
        known = ", ".join(sorted(EXPRESSIONS))
        raise ModelError(f"tokenizer.ggml.pre: {pre[:80]!r} is not known; known: {known}")
    return [_at_unicode_15(expression) for expression in EXPRESSIONS[pre]]


def _at_unicode_15(expression: str) -> str:
    for name in _PROPERTIES:
        expression = expression.replace(rf"\p{{{name}}}", rf"[\p{{{name}}}&&[^{_NEWER}]]")
    return expression
