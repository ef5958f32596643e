"""What `ridgeline plan` prints: the ranking, and what is to be known of the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ridgeline.cli.plan_asked import has_slo, load_text
from ridgeline.cli.roofline import console_for
from ridgeline.plan.choice import Asked, Choice
from ridgeline.plan.search import Searched

if TYPE_CHECKING:
    from rich.table import Table


def table_of(rows: Sequence[Sequence[str]], head: Sequence[str], words: Sequence[str]) -> Table:
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="dim")
    for title in head:
        made.add_column(title, justify="left" if title in words else "right")
    for row in rows:
        made.add_row(*row)
    return made


def show(
    name: str, found: Searched, shown: Sequence[Choice], asked: Asked, api_price: float | None
) -> None:
    from ridgeline.plan.report import (
        HEAD,
        WORDS,
        break_even,
        cells,
        dollars,
        failure_axis,
        ledger,
        why_lost,
    )
    from ridgeline.units import format_bytes

    best = shown[0]
    ranking = table_of([cells(c) for c in shown], HEAD, WORDS)
    console = console_for([ranking])

    def say(text: str, style: str = "") -> None:
        console.print(text, markup=False, style=style)

    say(f"{name}: {load_text(asked)}", "bold")
    console.print(ranking)
    say("")
    if best.usd_per_hour is not None:
        low, high, date = best.usd_per_hour
        say(
            f"cost: ${low:,.2f} - {high:,.2f} an hour (prices of up to {date}); $/MTok of input "
            f"{dollars(best.usd_per_mtok('input'))}, of cached input "
            f"{dollars(best.usd_per_mtok('cached_input'))}, of output "
            f"{dollars(best.usd_per_mtok('generated'))} if each bears the time that it takes"
        )
    least, most = best.most_rate / best.spread, best.most_rate * best.spread
    say(
        f"throughput: at most {best.most_rate:.3g} requests/s, 80 % between {least:.3g} and "
        f"{most:.3g}; $/MTok and J/token of a full fleet are as wide"
    )
    m = ledger(best)
    say(
        f"a rank's memory: weights {format_bytes(m.weights)}, values {format_bytes(m.values)}, "
        f"cache of {best.in_flight:.0f} requests {format_bytes(m.cache)}, free "
        f"{format_bytes(m.free)} of {format_bytes(m.usable)}"
    )
    if len(shown) > 1:
        on = f"{second} " if (second := shown[1].accelerator.name) != best.accelerator.name else ""
        say(f"runner-up: {on}{shown[1].name}: {why_lost(best, shown[1])}")
    for what, text in failure_axis(best, has_slo=has_slo(asked)):
        say(f"{what}: {text}")
    if api_price is not None:
        say(f"host it? {break_even(best, api_price)}")
    say(
        f"{found.num_priced:,} candidates of {found.num_fitting} layouts that fit; "
        f"{len(found.ranked)} keep the SLO",
        "dim",
    )


def show_compared(best: Mapping[str, Choice], lost: Mapping[str, str]) -> None:
    from ridgeline.plan.report import HEAD, WORDS, cells

    rows = [(name, *cells(choice)) for name, choice in best.items()]
    made = table_of(rows, ("model", *HEAD), ("model", *WORDS))
    console = console_for([made])
    console.print()
    console.print(made)
    for name, why in lost.items():
        console.print(f"{name}: {why}", markup=False)
