"""Options that say how an answer is sampled: the fields of `SamplingParams` by their names."""

from __future__ import annotations

from typing import Annotated, Any

import typer

_PANEL = "Sampling"


def _option(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=_PANEL)


MaxTokens = Annotated[
    int | None, _option("Longest answer, in tokens. [default: until the model ends]")
]
MinTokens = Annotated[int, _option("Shortest answer, in tokens: nothing ends it before.")]
Temperature = Annotated[float, _option("0: always the likeliest token. Higher: more varied.")]
DynatempRange = Annotated[
    float, _option("The temperature goes up and down by this with the entropy; 0: it stays.")
]
TopP = Annotated[
    float | None,
    _option(
        "Keep the likeliest tokens up to this probability; 1: all. [default: 0.95; with mirostat 1]"
    ),
]
TopK = Annotated[int, _option("Keep this many likeliest tokens; 0: all.")]
MinP = Annotated[
    float, _option("Keep tokens at least this share as likely as the likeliest; 0: all.")
]
TypicalP = Annotated[
    float, _option("Keep the tokens nearest the entropy up to this probability; 1: all.")
]
TopNSigma = Annotated[
    float, _option("Keep tokens within so many standard deviations of the likeliest; 0: all.")
]
XtcProbability = Annotated[
    float, _option("How often all top choices but the last are left out; 0: never.")
]
XtcThreshold = Annotated[float, _option("The probability that makes a token a top choice.")]
Mirostat = Annotated[int, _option("2: hold the surprise at --mirostat-tau; 0: off.")]
MirostatTau = Annotated[float, _option("The surprise that mirostat aims at, in bits.")]
MirostatEta = Annotated[float, _option("How fast mirostat corrects itself.")]
RepetitionPenalty = Annotated[float, _option("Above 1: avoid tokens seen before.")]
FrequencyPenalty = Annotated[
    float, _option("Above 0: avoid a token the more, the more often the answer has it.")
]
PresencePenalty = Annotated[float, _option("Above 0: avoid tokens that the answer has.")]
DryMultiplier = Annotated[
    float, _option("Above 0: avoid what would go on with a repetition (DRY).")
]
NoRepeatNgramSize = Annotated[int, _option("No so many tokens in a row come twice; 0: they may.")]
BadWords = Annotated[list[str] | None, _option("Text that does not come; may be repeated.")]
Seed = Annotated[int | None, _option("Same seed, same answer. [default: drawn, and shown]")]
Stop = Annotated[list[str] | None, _option("End before this text; may be repeated.")]
StopRegex = Annotated[
    list[str] | None, _option("End before what this pattern matches; may be repeated.")
]
IgnoreEos = Annotated[
    bool,
    typer.Option("--ignore-eos", help="Go on when the model ends.", rich_help_panel=_PANEL),
]
