"""Sampling parameters for tests: each sampler alone, and seeded random mixtures of them."""

from __future__ import annotations

import random
from typing import Any

from ridgeline.step import RowSampling

# Each alone; ids below 5, which every vocabulary of the tests has.
ALONE: dict[str, RowSampling] = {
    "greedy": RowSampling(),
    "plain": RowSampling(temperature=1.0),
    "bias": RowSampling(temperature=1.0, logit_bias=((0, 3.5), (2, -4.0), (4, 100.0))),
    "repetition": RowSampling(temperature=0.9, repetition_penalty=1.4),
    "reward": RowSampling(temperature=0.9, repetition_penalty=0.7),
    "frequency": RowSampling(temperature=1.0, frequency_penalty=0.7, num_prompt=2),
    "presence": RowSampling(temperature=1.0, presence_penalty=1.1, num_prompt=2),
    "negative": RowSampling(temperature=1.0, presence_penalty=-1.1, frequency_penalty=-0.3),
    "repetition window": RowSampling(temperature=0.9, repetition_penalty=1.4, penalty_last_n=3),
    "no window": RowSampling(temperature=0.9, repetition_penalty=1.4, penalty_last_n=0),
    "presence window": RowSampling(
        temperature=1.0, presence_penalty=1.1, frequency_penalty=0.4, num_prompt=2, penalty_last_n=4
    ),
    "dry": RowSampling(temperature=1.0, dry_multiplier=0.8, dry_allowed_length=1),
    "dry greedy": RowSampling(dry_multiplier=2.0, dry_base=3.0, dry_allowed_length=2),
    "dry breakers": RowSampling(temperature=1.0, dry_multiplier=0.8, dry_breakers=(1, 3)),
    "dry window": RowSampling(temperature=1.0, dry_multiplier=5.0, dry_last_n=7),
    "n-gram 1": RowSampling(temperature=1.0, no_repeat_ngram=1),
    "n-gram 3": RowSampling(temperature=1.0, no_repeat_ngram=3),
    "bad words": RowSampling(temperature=1.0, bad_words=((0,), (1, 2), (3, 1, 4))),
    "allowed": RowSampling(temperature=1.0, allowed_ids=(0, 3, 4)),
    "minimum": RowSampling(stop_ids=(0, 1, 2), min_tokens=5, num_prompt=1),
    "cold": RowSampling(temperature=1e-30),
    "dynamic": RowSampling(temperature=1.0, dynatemp_range=0.7, dynatemp_exponent=1.3),
    "n-sigma": RowSampling(temperature=1.4, top_n_sigma=1.0),
    "top-k 1": RowSampling(temperature=2.0, top_k=1),
    "top-k": RowSampling(temperature=1.3, top_k=40),
    "typical": RowSampling(temperature=1.0, typical_p=0.6),
    "typical most": RowSampling(temperature=1.5, typical_p=0.97),
    "top-p": RowSampling(temperature=0.8, top_p=0.95),
    "top-p tiny": RowSampling(temperature=1.5, top_p=1e-6),
    "min-p": RowSampling(temperature=0.3, min_p=0.01),
    "min-p 1": RowSampling(temperature=1.0, min_p=1.0),
    "xtc": RowSampling(temperature=1.0, xtc_probability=0.5, xtc_threshold=0.02),
    "xtc always": RowSampling(temperature=1.0, xtc_probability=1.0, xtc_threshold=0.001),
    "mirostat": RowSampling(temperature=1.0, mirostat_tau=3.0, mirostat_mu=6.0),
    "mirostat small": RowSampling(temperature=1.0, mirostat_tau=0.1, mirostat_mu=0.2),
    "top-k, top-p, min-p": RowSampling(
        temperature=1.3, top_k=40, top_p=0.9, min_p=0.05, repetition_penalty=0.8
    ),
    "typical of top-k": RowSampling(temperature=1.3, top_k=50, typical_p=0.7),
    "xtc of top-p": RowSampling(
        temperature=1.3, top_p=0.9, xtc_probability=0.7, xtc_threshold=0.01
    ),
    "mirostat of top-k": RowSampling(temperature=1.0, top_k=9, mirostat_tau=1.0, mirostat_mu=2.0),
}


def mixture(rng: random.Random, vocab: int) -> RowSampling:
    """Any samplers together."""
    on: dict[str, Any] = {"temperature": rng.choice([0.0, 0.6, 1.0, 1.7])}
    ids = lambda most: tuple(rng.randrange(vocab) for _ in range(rng.randint(1, most)))  # noqa: E731
    choices: dict[str, Any] = {
        "logit_bias": lambda: tuple((i, rng.uniform(-5, 5)) for i in sorted(set(ids(6)))),
        "repetition_penalty": lambda: rng.choice([0.8, 1.1, 1.5]),
        "frequency_penalty": lambda: rng.uniform(-0.5, 1.5),
        "presence_penalty": lambda: rng.uniform(-0.5, 1.5),
        "penalty_last_n": lambda: rng.choice([-1, 0, 2, 15, 1000]),
        "dry_multiplier": lambda: rng.uniform(0.1, 2),
        "dry_breakers": lambda: ids(2),
        "dry_last_n": lambda: rng.choice([-1, 0, 3, 20]),
        "no_repeat_ngram": lambda: rng.randint(1, 4),
        "bad_words": lambda: tuple(ids(3) for _ in range(3)),
        "allowed_ids": lambda: tuple(sorted(set(ids(vocab)))),
        "stop_ids": lambda: ids(3),
        "min_tokens": lambda: rng.randint(0, 30),
        "dynatemp_range": lambda: rng.uniform(0.1, 1.5),
        "top_n_sigma": lambda: rng.uniform(0.5, 2.5),
        "top_k": lambda: rng.choice([1, 3, 50, 1000]),
        "typical_p": lambda: rng.uniform(0.2, 0.99),
        "top_p": lambda: rng.uniform(0.2, 0.99),
        "min_p": lambda: rng.uniform(0.001, 0.3),
        "xtc_probability": lambda: rng.uniform(0.1, 1),
        "xtc_threshold": lambda: rng.choice([0.0, 0.01, 0.2]),
        "mirostat_tau": lambda: rng.uniform(0.5, 6),
        "mirostat_mu": lambda: rng.uniform(0.5, 12),
        "num_prompt": lambda: rng.randint(0, 20),
    }
    for name in rng.sample(sorted(choices), rng.randint(1, 6)):
        on[name] = choices[name]()
    return RowSampling(**on)
