"""Millions of scheduler steps under faults: `python tests/fuzz/fuzz_scheduler.py --steps 1000000`.

Prints what the worlds met; stops at the first find with the seed of its world.
"""

from __future__ import annotations

import argparse
import time

from scheduler_world import Counts, run_worlds

STEPS_A_WORLD = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first world")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    asked = parser.parse_args()
    start = time.monotonic()
    total = Counts()
    seed = asked.seed
    while total.steps < asked.steps and time.monotonic() - start < asked.seconds:
        total.add(run_worlds(range(seed, seed + 1), STEPS_A_WORLD))
        seed += 1
    seconds = time.monotonic() - start
    print(f"worlds {asked.seed} to {seed - 1}, {seconds:.0f} s, no find")
    print(f"{total.steps} steps, {total.tokens} tokens, requests ended: {dict(total.ended)}")
    print(
        f"{total.preemptions} preemptions, {total.copies} blocks copied, {total.cached_tokens} "
        f"tokens from the cache, {total.overloaded} refused, {total.failed_steps} steps failed "
        f"({total.passing_faults} of faults that pass, {total.poisoned} requests found guilty), "
        f"{total.given_up} steps after which a window had passed blocks, "
        f"{total.retracted} retracted, {total.pruned_rows} rows pruned, "
        f"{total.stale} results that came too late"
    )


if __name__ == "__main__":
    main()
