"""Profiles of efficiencies as files: those in the package by name, one's own by path.

A file is TOML: what it is, from where, how wide its intervals are, and a number for each name of
`efficiency.MEANINGS` with what it means beside it.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from math import isfinite
from pathlib import Path

from ridgeline.cost.efficiency import MEANINGS, PUBLISHED, Profile
from ridgeline.errors import RidgelineError

PACKAGED = ("fitted",)
HEADS = ("name", "source", "spread", "spread_ttft", "spread_ttft_apart", "spread_tpot_apart")


@cache
def load_profile(name: str = "fitted") -> Profile:
    """ "fitted" (the default), "published", or the path of a file that `ridgeline fit` wrote.
    RidgelineError says what of it is missing, unknown or out of bounds.
    """
    if name == "published":
        return PUBLISHED
    if name in PACKAGED:
        text = files("ridgeline.cost.profiles").joinpath(f"{name}.toml").read_text("utf-8")
        return read_profile(text, f"{name}.toml")
    path = Path(name)
    if not path.is_file():
        raise RidgelineError(
            f"profile {name!r}: neither a file nor one of {', '.join((*PACKAGED, 'published'))}"
        )
    return read_profile(path.read_text(encoding="utf-8"), name)


def read_profile(text: str, where: str) -> Profile:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RidgelineError(f"{where}: not TOML: {error}") from error
    values = table.get("values")
    if not isinstance(values, dict):
        raise RidgelineError(f"{where}: has no [values]")
    unknown = [*(set(table) - {*HEADS, "values"}), *(set(values) - set(MEANINGS))]
    missing = [name for name in MEANINGS if name not in values]
    if unknown or missing:
        raise RidgelineError(
            f"{where}: unknown: {', '.join(sorted(unknown)) or 'nothing'}; "
            f"missing: {', '.join(missing) or 'nothing'}"
        )
    numbers: dict[str, float] = {}
    for name, (_default, least, most, what) in MEANINGS.items():
        value = values[name]
        if not isinstance(value, int | float) or not least * 0.999 <= value <= most * 1.001:
            raise RidgelineError(f"{where}: {name} = {value!r}: {least:g} to {most:g} ({what})")
        numbers[name] = float(value)
    heads = {key: table.get(key) for key in HEADS}
    for name in ("spread_ttft_apart", "spread_tpot_apart"):
        if heads[name] is None:
            heads[name] = getattr(PUBLISHED, name)
    spreads = [heads[name] for name in HEADS[2:]]
    for spread in spreads:
        if not isinstance(spread, int | float) or not (isfinite(spread) and 0 < spread < 5):
            raise RidgelineError(f"{where}: spread {spread!r}: a number between 0 and 5")
    return Profile(
        str(heads["name"] or where),
        numbers,
        str(heads["source"] or ""),
        float(spreads[0]),  # type: ignore[arg-type]
        float(spreads[1]),  # type: ignore[arg-type]
        float(spreads[2]),  # type: ignore[arg-type]
        float(spreads[3]),  # type: ignore[arg-type]
    )


def profile_text(profile: Profile) -> str:
    """The file of a profile."""
    quoted = [f"{key} = {_quoted(str(getattr(profile, key)))}" for key in HEADS[:2]]
    spreads = [f"{key} = {getattr(profile, key):.3g}" for key in HEADS[2:]]
    lines = [
        f'"{name}" = {profile[name]:.4g}  # {what}'
        for name, (_default, _least, _most, what) in MEANINGS.items()
    ]
    return "\n".join([*quoted, *spreads, "", "[values]", *lines, ""])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'
