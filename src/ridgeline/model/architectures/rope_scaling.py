"""Rotary frequencies under each known scaling, in plain Python.

Sources: RoPE (Su et al. 2021); linear: Chen et al. 2023; NTK and YaRN: Peng et al. 2023; LongRoPE:
Ding et al. 2024; llama3: the model code that Meta published with Llama 3.1. Where these leave a
choice (YaRN's rounding, the magnitudes' defaults) it is the one that transformers makes.

Frequencies are fixed when a model is built. Two scalings depend on the length of a sequence as it
grows (dynamic NTK always, LongRoPE at one point); they take the context length that the model is
built for instead, because a token must not depend on how long its sequence becomes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ridgeline.errors import ModelError
from ridgeline.model.architectures.fields import MAX_POSITIONS, Fields
from ridgeline.model.graph.ops.rope import Rotation

MAX_FACTOR = 1e6

# What a rope section may hold; another key may change numbers.
KNOWN_KEYS = frozenset(
    {
        "rope_type",
        "type",
        "rope_theta",
        "partial_rotary_factor",
        "rotary_dim",  # of GGUF, as is frequency_factors
        "factor",
        "original_max_position_embeddings",
        "original_max_seq_len",
        "low_freq_factor",
        "high_freq_factor",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
        "long_factor",
        "short_factor",
        "frequency_factors",
        "finetuned",
        "mrope_section",
        "mrope_interleaved",
        "long_mscale",  # of Phi-3.5-MoE, as is short_mscale
        "short_mscale",
        "llama_4_scaling_beta",  # of queries' temperature, which `ministral3.py` reads
        "max_position_embeddings",  # Ministral 3 has it here too
    }
)


@dataclass(frozen=True, slots=True)
class RopeSettings:
    """What a configuration says about rotation, read and checked, before a context is chosen.

    section: the keys of the scaling. positions: the model's max_position_embeddings. original:
    positions that it was trained with before its context was extended.
    """

    kind: str
    section: Fields
    theta: float
    rotary_dim: int
    positions: int
    original: int
    head_dim: int

    @property
    def default_context(self) -> int:
        """Positions the model reaches when nothing else is asked for."""
        if self.kind != "yarn":
            return self.positions
        return min(MAX_POSITIONS, max(self.positions, int(yarn_factor(self) * self.original)))

    @property
    def longest_context(self) -> int:
        """Positions beyond which its scaling does not claim to work."""
        if self.kind in ("linear", "dynamic"):
            return min(MAX_POSITIONS, int(self.positions * read_factor(self)))
        return self.default_context


def read_rope(
    config: Fields,
    head_dim: int,
    positions: int,
    *,
    default_theta: float = 10000.0,
    layer_type: str | None = None,
    theta_name: str = "rope_theta",
    scaling_name: str | None = "rope_scaling",
    partial: bool = False,
    default_partial: float = 1.0,
) -> RopeSettings:
    """The rotation of `config`, in the older spelling (`rope_theta` beside `rope_scaling`) or the
    newer (`rope_parameters`, by layer type if the model has several).

    theta_name, scaling_name: the older keys of this layer type; scaling_name None: never scaled.
    partial: whether this architecture can turn a part of a head; default_partial: the part of which
    it does where nothing is said.
    """
    section = rope_section(config, layer_type, scaling_name)
    kind = read_kind(section)
    theta_of, name = (section, "rope_theta") if section.has("rope_theta") else (config, theta_name)
    theta = theta_of.number(name, 1.0 + 1e-6, 1e15, default_theta)
    rotary_dim = read_rotary_dim(config, section, head_dim, partial, default_partial)
    name = "original_max_position_embeddings"
    original_of = config if config.has(name) else section
    if not original_of.has(name) and section.has("original_max_seq_len"):
        name = "original_max_seq_len"  # Meta's and torchtitan's word for it
    check_mrope(section, rotary_dim)
    original = original_of.integer(name, 1, MAX_POSITIONS, positions)
    return RopeSettings(kind, section, theta, rotary_dim, positions, original, head_dim)


def check_mrope(section: Fields, rotary_dim: int) -> None:
    """The pairs of mrope's axes (Wang et al. 2024) must be all of a head's turned pairs."""
    if not section.has("mrope_section"):
        return
    pairs = section.numbers("mrope_section", 3, 1, rotary_dim)
    if sum(pairs) != rotary_dim // 2:
        section.refuse("mrope_section", f"must be {rotary_dim // 2} pairs in all")


def rope_section(config: Fields, layer_type: str | None, scaling_name: str | None) -> Fields:
    """The keys of a scaling, from either spelling; one that nothing reads is refused."""
    newer = config.section("rope_parameters")
    if layer_type is not None and any(isinstance(v, Mapping) for v in newer.values.values()):
        newer = newer.section(layer_type)
    older = config.section(scaling_name) if scaling_name else Fields({}, config.where)
    if newer.values and older.values and newer.values != older.values:
        config.refuse("rope_scaling", "contradicts rope_parameters: only one may be given")
    section = newer if newer.values else older
    for name in section.values:
        if name not in KNOWN_KEYS and section.has(name):
            section.refuse(name, f"is not known; known: {', '.join(sorted(KNOWN_KEYS))}")
    return section


def read_kind(section: Fields) -> str:
    """The scaling's key in `SCALINGS`."""
    named = {name: section.text(name) for name in ("rope_type", "type") if section.has(name)}
    kinds = {KIND_ALIASES.get(text, text) for text in named.values()}
    if len(kinds) > 1:
        section.refuse("rope_type", f"contradicts type = {named['type']!r}")
    kind = kinds.pop() if kinds else unnamed_kind(section)
    if kind not in SCALINGS:
        section.refuse(next(iter(named)), f"is not supported; supported: {', '.join(SCALINGS)}")
    return kind


def read_rotary_dim(
    config: Fields, section: Fields, head_dim: int, partial: bool, default: float
) -> int:
    """Channels of a head that turn: an even number of them."""
    share_of = section if section.has("partial_rotary_factor") else config
    share = share_of.number("partial_rotary_factor", 0.0, 1.0, default)
    if share != 1 and not partial:
        share_of.refuse("partial_rotary_factor", "this architecture turns whole heads")
    rotary_dim = section.integer("rotary_dim", 2, head_dim, int(head_dim * share))
    if rotary_dim >= 2 and rotary_dim % 2 == 0:
        return rotary_dim
    fault = f"{rotary_dim} of a head's channels would turn: an even number is needed"
    for fields, name in ((section, "rotary_dim"), (share_of, "partial_rotary_factor")):
        if fields.has(name):
            fields.refuse(name, fault)
    raise ModelError(f"{config.where}: head_dim = {head_dim}: {fault}")


def unnamed_kind(section: Fields) -> str:
    """The scaling of a section that names no type: its own keys tell it."""
    if section.has("low_freq_factor"):
        return "llama3"
    return "linear" if section.has("factor") else "default"


def choose_context(settings: RopeSettings, context_length: int | None, where: str) -> int:
    """The context that a model is built for; ModelError if it is beyond what the model can do."""
    if context_length is None:
        return settings.default_context
    if not 1 <= context_length <= settings.longest_context:
        raise ModelError(
            f"{where}: a context of {context_length} tokens is not possible: this model reaches "
            f"1 to {settings.longest_context}"
        )
    return context_length


def rotation(
    settings: RopeSettings, context: int, *, interleaved: bool = False, by_axes: bool = False
) -> Rotation:
    """The rotation of one head of a model that is built for `context` tokens. by_axes: it sees
    images; a text has one position a token, whichever of the axes of mrope is asked.
    """
    frequencies, magnitude = SCALINGS[settings.kind](settings, context)
    if settings.section.has("frequency_factors"):
        divisors = read_factors(settings, "frequency_factors")
        frequencies = [f / divisor for f, divisor in zip(frequencies, divisors, strict=True)]
    axes = read_axes(settings) if by_axes else ()
    return Rotation(tuple(frequencies), interleaved, magnitude, axes)


def read_axes(settings: RopeSettings) -> tuple[int, ...]:
    """Which of a token's positions (time, line, column) each pair turns by, if it has several: runs
    of pairs, or taking turns as long as an axis has pairs left (Qwen3-VL).
    """
    section, pairs = settings.section, settings.rotary_dim // 2
    if not section.has("mrope_section"):
        section.refuse("mrope_section", "is needed of a model that sees images")
    counts = [int(count) for count in section.numbers("mrope_section", 3, 1, pairs)]
    if not section.boolean("mrope_interleaved", False):
        return tuple(axis for axis in range(3) for _ in range(counts[axis]))
    return tuple(i % 3 if i < 3 * counts[i % 3] else 0 for i in range(pairs))


def plain(settings: RopeSettings, context: int) -> tuple[list[float], float]:
    """theta^(-2i / d): no scaling."""
    dim = settings.rotary_dim
    return [settings.theta ** (-i / dim) for i in range(0, dim, 2)], 1.0


def proportional(settings: RopeSettings, context: int) -> tuple[list[float], float]:
    """The fastest pairs of a whole head turn, and the others stand still (Gemma 4)."""
    dim = settings.head_dim
    turned = [settings.theta ** (-i / dim) for i in range(0, settings.rotary_dim, 2)]
    return turned + [0.0] * (dim // 2 - len(turned)), 1.0


def linear(settings: RopeSettings, context: int) -> tuple[list[float], float]:
    """Positions divided by a factor."""
    factor = read_factor(settings)
    return [f / factor for f in plain(settings, context)[0]], 1.0


def dynamic(settings: RopeSettings, context: int) -> tuple[list[float], float]:
    """NTK-aware: a larger base beyond the trained context, so that the fastest pairs stay."""
    dim, factor = settings.rotary_dim, read_factor(settings)
    if dim <= 2:
        settings.section.refuse("rope_type", "dynamic scaling needs more than 2 turned channels")
    stretch = factor * max(context, settings.positions) / settings.positions - (factor - 1)
    theta = settings.theta * stretch ** (dim / (dim - 2))
    return [theta ** (-i / dim) for i in range(0, dim, 2)], 1.0


def llama3(settings: RopeSettings, context: int) -> tuple[list[float], float]:
    """Slow pairs divided by a factor, fast ones kept, those between blended."""
    section, factor = settings.section, read_factor(settings)
    low = section.number("low_freq_factor", 1e-6, MAX_FACTOR)
    high = section.number("high_freq_factor", 1e-6, MAX_FACTOR)
    if low > high:
        section.refuse("high_freq_factor", f"must not be below low_freq_factor = {low:g}")
    scaled = []
    for frequency in plain(settings, context)[0]:
        turns = settings.original * frequency / (2 * math.pi)
        # Llama 4 Scout blends none: the two are one.
        kept = float(turns > low) if low == high else (turns - low) / (high - low)
        kept = min(1.0, max(0.0, kept))
        scaled.append(frequency * (kept + (1 - kept) / factor))
    return scaled, 1.0


def yarn(settings: RopeSettings, context: int) -> tuple[list[float], float]:
    """Pairs that turn often in the trained context kept, rare ones divided, a ramp between."""
    section, dim, factor = settings.section, settings.rotary_dim, yarn_factor(settings)
    fast = section.number("beta_fast", 1e-3, MAX_FACTOR, 32.0)
    slow = section.number("beta_slow", 1e-3, MAX_FACTOR, 1.0)
    if slow > fast:
        section.refuse("beta_slow", f"must not be above beta_fast = {fast:g}")

    def pair_that_turns(times: float) -> float:
        turns = settings.original / (times * 2 * math.pi)
        return dim * math.log(turns) / (2 * math.log(settings.theta))

    first, last = pair_that_turns(fast), pair_that_turns(slow)
    if section.boolean("truncate", True):
        first, last = float(math.floor(first)), float(math.ceil(last))
    first, last = max(first, 0.0), min(last, dim - 1.0)
    if first == last:
        last += 0.001
    scaled = []
    for i, frequency in enumerate(plain(settings, context)[0]):
        divided = min(1.0, max(0.0, (i - first) / (last - first)))
        scaled.append(frequency * (1 - divided + divided / factor))
    return scaled, yarn_magnitude(section, factor)


def yarn_factor(settings: RopeSettings) -> float:
    if settings.section.has("factor"):
        return read_factor(settings)
    return max(1.0, settings.positions / settings.original)


def yarn_magnitude(section: Fields, factor: float) -> float:
    """YaRN's attention factor: given, or 0.1 ln(factor) + 1, or DeepSeek's ratio of two such."""

    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if section.has("attention_factor"):
        return section.number("attention_factor", 1e-6, MAX_FACTOR)
    over = section.number("mscale", 0.0, MAX_FACTOR, 0.0)
    under = section.number("mscale_all_dim", 0.0, MAX_FACTOR, 0.0)
    return magnitude(over) / magnitude(under) if over and under else magnitude(1.0)


def longrope(settings: RopeSettings, context: int) -> tuple[list[float], float]:
    """A divisor of its own for each pair: one list up to the trained context, another beyond."""
    section = settings.section
    long, short = read_factors(settings, "long_factor"), read_factors(settings, "short_factor")
    divisors = long if context > settings.original else short
    frequencies = [
        f / divisor for f, divisor in zip(plain(settings, context)[0], divisors, strict=True)
    ]
    for name in ("attention_factor", f"{'long' if divisors is long else 'short'}_mscale"):
        if section.has(name):
            return frequencies, section.number(name, 1e-6, MAX_FACTOR)
    stretch = (
        read_factor(settings) if section.has("factor") else settings.positions / settings.original
    )
    if stretch <= 1:
        return frequencies, 1.0
    if settings.original < 2:
        section.refuse("original_max_position_embeddings", "must be above 1")
    return frequencies, math.sqrt(1 + math.log(stretch) / math.log(settings.original))


def read_factor(settings: RopeSettings) -> float:
    return settings.section.number("factor", 1.0, MAX_FACTOR)


def read_factors(settings: RopeSettings, name: str) -> tuple[float, ...]:
    return settings.section.numbers(name, settings.rotary_dim // 2, 1e-6, 1e9)


SCALINGS: dict[str, Callable[[RopeSettings, int], tuple[list[float], float]]] = {
    "default": plain,
    "linear": linear,
    "proportional": proportional,
    "dynamic": dynamic,
    "llama3": llama3,
    "yarn": yarn,
    "longrope": longrope,
}

KIND_ALIASES = {"su": "longrope", "mrope": "default"}
