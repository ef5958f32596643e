"""When separating prompts from answers pays: the greatest rate that keeps an SLO, split by split.

    python benchmarks/disaggregation.py [--only NAME] [--splits 6:2,5:3] [--requests 1200]
        [--json FILE]

Settings after DistServe (Zhong et al., OSDI 2024: chat, code and summaries with an SLO each),
Splitwise (Patel et al., ISCA 2024: Azure's coding and conversation, median lengths) and Mooncake
(Qin et al., FAST 2025: long prompts). Lengths are drawn evenly from half to one and a half of the
mean. All splits have the same number of GPUs; a rate counts where 90 % of requests meet the SLO.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ridgeline.cost.accelerator import load_accelerator
from ridgeline.cost.chip import Mesh
from ridgeline.model.configurations import load_configuration
from ridgeline.plan.deployed import Knobs, replica_on
from ridgeline.plan.fleet import Fleet, Transfer
from ridgeline.plan.knees import find_slo_rate
from ridgeline.plan.load import Lengths, Load, closed, poisson
from ridgeline.plan.tally import Slo


@dataclass(frozen=True)
class Setting:
    """prompt, answer: mean tokens. replicas: each of `tp` accelerators."""

    name: str
    prompt: int
    answer: int
    slo: Slo
    model: str = "llama-3.3-70b"
    on: str = "h100"
    precision: str = "fp8"
    tp: int = 2
    replicas: int = 8


SETTINGS = (
    Setting("DistServe chat", 755, 200, Slo(ttft=0.4, itl=0.04)),
    Setting("DistServe code", 171, 98, Slo(ttft=0.2, itl=0.04)),
    Setting("DistServe summary", 1738, 91, Slo(ttft=1.5, itl=0.04)),
    Setting("Splitwise coding", 1500, 13, Slo(ttft=0.5, itl=0.04)),
    Setting("Splitwise conversation", 1020, 129, Slo(ttft=0.5, itl=0.04)),
    Setting("Mooncake", 7955, 194, Slo(ttft=5.0, itl=0.04)),
    Setting("Mooncake, slow answers do", 7955, 194, Slo(ttft=5.0, itl=0.1)),
    Setting("Mooncake, every gap", 7955, 194, Slo(ttft=5.0, itl99=0.05)),
)


def halves(mean: int) -> Lengths:
    return Lengths(max(1, mean // 2), mean + mean // 2)


def rates(setting: Setting, count: int, splits: Sequence[str] = ()) -> dict[str, float]:
    """Requests/s by split: "together", "together, paced" (prompts are cut so that steps keep the
    ITL), "P:D", and the best split "over a slow link" of 1 GB/s. splits: that are tried; none: all.
    """
    lengths = halves(setting.prompt), halves(setting.answer)
    config = load_configuration(setting.model).config
    pace = min(setting.slo.itl, setting.slo.itl99)

    def fleet(prefill: int, target: float | None, speed: float | None = None) -> Fleet:
        kind = replica_on(
            setting.model,
            config,
            load_accelerator(setting.on),
            Knobs(itl_target=target),
            mesh=Mesh(tp=setting.tp),
            precision=setting.precision,
        )
        link = speed or kind.link_bytes_per_second
        assert link is not None
        return Fleet(
            kind.make,
            kind.times,
            replicas=setting.replicas,
            prefill=prefill,
            transfer=Transfer(kind.kv_bytes, link) if prefill else None,
        )

    def kept(fleet: Fleet) -> float:
        def users(number: int, count: int) -> Load:
            return closed(number, *lengths, count, 0)

        def rate(per_second: float, count: int) -> Load:
            return poisson(per_second, *lengths, count, 0)

        return find_slo_rate(fleet, setting.slo, users, rate, count=count)

    found = {"together": kept(fleet(0, None)), "together, paced": kept(fleet(0, pace))}
    for prefill in range(1, setting.replicas):
        split = f"{prefill}:{setting.replicas - prefill}"
        if splits and split not in splits:
            continue
        found[split] = kept(fleet(prefill, None))
    best = max((n for n in found if ":" in n), key=lambda name: found[name])
    found[f"{best} over 1 GB/s"] = kept(fleet(int(best.split(":")[0]), None, 1e9))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=[setting.name for setting in SETTINGS])
    parser.add_argument("--splits", default="", help="P:D,P:D,... [default: all]")
    parser.add_argument("--requests", type=int, default=1200)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = []
    for setting in SETTINGS:
        if asked.only and asked.only != setting.name:
            continue
        start = time.perf_counter()
        found = rates(setting, asked.requests, asked.splits.split(",") if asked.splits else ())
        gpus = setting.tp * setting.replicas
        shown = ", ".join(f"{name} {rate:.3g}" for name, rate in found.items())
        print(f"{setting.name} ({gpus} x {setting.on}): {shown} requests/s", flush=True)
        print(f"  {time.perf_counter() - start:.0f} s", file=sys.stderr)
        rows.append({"setting": setting.name, "gpus": gpus, "rates": found})
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
