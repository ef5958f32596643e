"""What people type about a fleet: durations, service levels, failures. Errors name the option."""

from __future__ import annotations

import re
from math import inf

from ridgeline.errors import RequestError
from ridgeline.plan.autoscale import RULES, Autoscale
from ridgeline.plan.fleet import Failure, Straggler
from ridgeline.plan.tally import Slo

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?P<number>[0-9]*\.?[0-9]+)(?P<unit>us|ms|s|min|m|h)?")
_FAILURE = re.compile(r"(replica=)?(?P<replica>[0-9]+)@(?P<at>[^+]+)(\+(?P<seconds>.+))?")
_STRAGGLER = re.compile(
    r"(replica=)?(?P<replica>[0-9]+)[x*](?P<factor>[0-9]*\.?[0-9]+)(@(?P<at>.+))?"
)
_PARTS = re.compile(r"(?P<prefill>[0-9]+):(?P<decode>[0-9]+)")
_LEVELS = ("ttft", "itl", "itl99", "e2e")
_SAME = {"tpot": "itl"}


def parse_duration(option: str, text: str) -> float:
    """Seconds: `500ms`, `2s`, `1.5m`; a number alone is seconds."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise RequestError(option, f"{text!r} is not a time; as 500ms, 2s or 10m")
    return float(match["number"]) * _UNITS[match["unit"] or "s"]


def parse_slo(text: str) -> Slo:
    """`ttft=500ms,itl=40ms`; see `Slo`. tpot is another word for itl."""
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, is_said, bound = part.partition("=")
        name = _SAME.get(name, name)
        if not is_said or name not in _LEVELS:
            raise RequestError(
                "--slo", f"{part!r}; as ttft=500ms,itl=40ms, of {', '.join(_LEVELS)}"
            )
        seconds = parse_duration("--slo", bound)
        if not seconds > 0:
            raise RequestError("--slo", f"{part!r}: nothing takes no time")
        found[name] = seconds
    return Slo(**found)


def parse_failure(text: str) -> Failure:
    """`replica=3@120s+60s`: lost at 120 s, back 60 s later; without +: not back."""
    match = _FAILURE.fullmatch(text.strip())
    if match is None:
        raise RequestError(
            "--fail", f"{text!r}; as replica=3@120s+60s: lost at 120 s, back 60 s later"
        )
    seconds = inf if match["seconds"] is None else parse_duration("--fail", match["seconds"])
    return Failure(int(match["replica"]), parse_duration("--fail", match["at"]), seconds)


def parse_straggler(text: str) -> Straggler:
    """`replica=2x1.5@30s`: from 30 s on its steps take 1.5 times as long; without @: from the
    start.
    """
    match = _STRAGGLER.fullmatch(text.strip())
    if match is None:
        raise RequestError("--straggler", f"{text!r}; as replica=2x1.5, or replica=2x1.5@30s")
    at = 0.0 if match["at"] is None else parse_duration("--straggler", match["at"])
    return Straggler(int(match["replica"]), float(match["factor"]), at)


def parse_disaggregation(text: str) -> tuple[int, int]:
    """`2:6`: replicas for prompts, and for answers."""
    match = _PARTS.fullmatch(text.strip())
    if match is None or not (int(match["prefill"]) and int(match["decode"])):
        raise RequestError(
            "--disaggregate", f"{text!r}; as 2:6: replicas for prompts, and for answers"
        )
    return int(match["prefill"]), int(match["decode"])


def parse_autoscale(between: str, on: str, delay: str, down_after: str) -> Autoscale:
    """`1:8`, `queue=32` or `ttft=1s`, and two durations."""
    match = _PARTS.fullmatch(between.strip())
    if match is None:
        raise RequestError("--autoscale", f"{between!r}; as 1:8: replicas at least, and at most")
    rule, is_said, target = on.strip().partition("=")
    if rule not in RULES or not is_said:
        raise RequestError("--scale-on", f"{on!r}; as queue=32 or ttft=1s")
    if rule == "ttft":
        amount = parse_duration("--scale-on", target)
    else:
        try:
            amount = float(target)
        except ValueError:
            raise RequestError("--scale-on", f"{target!r} is not a number of requests") from None
    found = Autoscale(
        int(match["prefill"]),
        int(match["decode"]),
        rule,
        amount,
        parse_duration("--scale-delay", delay),
        calm=parse_duration("--scale-down-after", down_after),
    )
    found.check()
    return found
