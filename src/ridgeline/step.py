"""The types that cross the seam between who plans a step and who runs, prices or times it.

`StepPlan` is made by the scheduler, run by an executor, priced by the cost model and timed by the
simulator. It carries rows and counts and never token ids: those live in the executor's state table,
so that the next step can be planned while this one runs. This file knows nothing of tensors, clocks
or models; it stands at the root because rooms above and below the seam speak it. What there is one
of for each row of each step is a named tuple: made in a third of a frozen dataclass's time.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Of rows under a grammar, the tokens that may come: see `Executor.submit`.
Masks = Callable[[], Mapping[int, "npt.NDArray[np.uint32]"]]


def first_entry(window: int | None, num_context: int, block_tokens: int) -> int:
    """Of a row's block table, the first entry that a token after `num_context` others can see."""
    return 0 if window is None else max(0, (num_context - window + 1) // block_tokens)


# Of the cache, as our backends keep it: simulated engines and tests may have blocks of other sizes.
BLOCK_TOKENS = 16

# In place of a block that a group has not: its layers' windows do not reach back to it.
NO_BLOCK = -1


@dataclass(frozen=True, slots=True)
class BlockGroup:
    """Layers whose keys and values are kept and given up together; docs/kv_groups.md.

    window: positions that they reach back, the query included; None for all. blocks: blocks that an
    entry of a row's table has: what `block_tokens` tokens of these layers take.
    """

    window: int | None = None
    blocks: int = 1

    def first_entry(self, num_context: int, block_tokens: int) -> int:
        """Of a row's table, the first that a token after `num_context` others can see."""
        return first_entry(self.window, num_context, block_tokens)

    def most_entries(self, num_tokens: int, block_tokens: int, step_tokens: int) -> int:
        """Entries that a row holds at most while it grows to `num_tokens`, if at most `step_tokens`
        are planned and not booked. Entries behind the window are given up when a step that filled
        blocks is booked: up to a block late.
        """
        whole = -(-num_tokens // block_tokens)
        if self.window is None:
            return whole
        behind = -(-(self.window - 1) // block_tokens)
        return min(whole, behind + (2 * (block_tokens - 1) + step_tokens) // block_tokens)


ONE_GROUP = (BlockGroup(),)


def most_row_blocks(
    groups: Sequence[BlockGroup], num_tokens: int, block_tokens: int, step_tokens: int
) -> int:
    """Blocks of all groups that a row holds at most while it grows to `num_tokens`."""
    return sum(
        group.blocks * group.most_entries(num_tokens, block_tokens, step_tokens) for group in groups
    )


def longest_row(
    groups: Sequence[BlockGroup],
    num_blocks: int,
    block_tokens: int,
    step_tokens: int,
    most_tokens: int,
) -> int:
    """Tokens, `most_tokens` at most, that a row can grow to in `num_blocks` blocks."""
    low, high = 0, -(-most_tokens // block_tokens)
    while low < high:
        middle = (low + high + 1) // 2
        needed = most_row_blocks(groups, middle * block_tokens, block_tokens, step_tokens)
        if needed <= num_blocks:
            low = middle
        else:
            high = middle - 1
    return min(low * block_tokens, most_tokens)


class PlanRow(NamedTuple):
    """One request's share of a step.

    row: slot in the executor's state table.
    num_new: tokens computed now (1 is decode; more is prefill or draft verification).
    num_context: tokens of the row whose keys and values are in the cache already.
    num_logits: logits wanted, for the last `num_logits` of the new tokens (0 inside a chunked
    prefill, 1 to sample; more, or before the row's last token, scores what the row has already).
    new_blocks: KV blocks appended to the row's block table before the step: whole entries, one
    after the other, each with the blocks of all groups in their order; NO_BLOCK for those that a
    group has not.
    slot: where the row's recurrent states lie, of a model that has some; None: at the row's number.
    """

    row: int
    num_new: int
    num_context: int
    num_logits: int
    new_blocks: tuple[int, ...] = ()
    slot: int | None = None

    @property
    def state_slot(self) -> int:
        return self.row if self.slot is None else self.slot


class BlockCopy(NamedTuple):
    """The executor copies what block `source` holds to block `target`, which no row has yet, before
    the step writes anything.
    """

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class SlotCopy:
    """The executor copies the recurrent states in slot `source`, of all layers, to slot `target`
    before the step writes anything: a snapshot of a row, or a row that goes on from one.
    """

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The rows of one step, in the order in which their logits come back; and the blocks, and slots
    of recurrent states, that are copied first, one after the other, for rows that share a prefix
    and go on by themselves.
    """

    rows: tuple[PlanRow, ...]
    copies: tuple[BlockCopy, ...] = ()
    slot_copies: tuple[SlotCopy, ...] = ()

    @property
    def shape(self) -> StepShape:
        return StepShape(
            new_tokens=tuple([r.num_new for r in self.rows]),
            context_lens=tuple([r.num_context for r in self.rows]),
            num_sampled=sum([r.num_logits for r in self.rows]),
        )


@dataclass(frozen=True, slots=True)
class StepShape:
    """What binds a graph's symbols: each row's new tokens and the context before them."""

    new_tokens: tuple[int, ...]
    context_lens: tuple[int, ...]
    num_sampled: int

    @staticmethod
    def prefill(num_tokens: int, batch: int = 1) -> StepShape:
        """`batch` prompts of `num_tokens` from an empty cache, each wanting its last logits."""
        return StepShape((num_tokens,) * batch, (0,) * batch, batch)

    @staticmethod
    def decode(batch: int, context: int) -> StepShape:
        """`batch` rows with `context` cached tokens, one new token each."""
        return StepShape((1,) * batch, (context,) * batch, batch)

    @property
    def num_tokens(self) -> int:
        return sum(self.new_tokens)

    @property
    def num_sequences(self) -> int:
        return len(self.new_tokens)

    def attended_pairs(
        self, window: int | None, causal: bool = True, ahead: int | None = None
    ) -> int:
        """Query-key pairs that attention evaluates; `window` counts the query itself, `ahead` is
        how far others than causal ones look ahead.
        """
        total = 0
        for new, context in zip(self.new_tokens, self.context_lens, strict=True):
            if not causal:
                end = context + new
                back, forth = window or end, end if ahead is None else ahead
                total += sum(
                    min(i + 1, back) + min(end - 1 - i, forth) for i in range(context, end)
                )
            elif window is None or context + new <= window:
                total += new * context + new * (new + 1) // 2
            else:
                # Queries below position `window` see all before them, the others `window` keys.
                growing = max(0, min(new, window - context))
                total += growing * context + growing * (growing + 1) // 2
                total += (new - growing) * window
        return total

    def cached_tokens_read(self, window: int | None) -> int:
        """Tokens whose keys and values one KV head reads, the new ones included."""
        total = 0
        for new, context in zip(self.new_tokens, self.context_lens, strict=True):
            total += new + (context if window is None else min(context, window - 1))
        return total


class Answers(NamedTuple):
    """Answers that are being written, as sums: `rows` of them, each with `new` tokens in a step.
    read: for each window of a model's caches, the tokens that they read if each has one.
    """

    rows: int
    read: tuple[int, ...]
    new: int = 1


@dataclass(frozen=True, slots=True)
class RowSampling:
    """How a row's logits become a token. Applied in the order of the fields; docs/sampling.md has
    the arithmetic. The defaults are off, and temperature 0 is the argmax.

    Token ids are below the vocabulary's size. The history that penalties and bans look at is the
    row's tokens; those from num_prompt on are its answer. seed and the position of the token to
    come key the noise (Philox 4x32-10), so a token is a function of (logits, history, this).
    """

    logit_bias: tuple[tuple[int, float], ...] = ()
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = -1
    """The three penalties above look at so many of the last tokens; -1: at all."""
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_last_n: int = -1
    """DRY looks at so many of the last tokens; -1: at all."""
    dry_breakers: tuple[int, ...] = ()
    no_repeat_ngram: int = 0
    bad_words: tuple[tuple[int, ...], ...] = ()
    allowed_ids: tuple[int, ...] | None = None
    stop_ids: tuple[int, ...] = ()
    """Cannot come before the answer has min_tokens."""
    min_tokens: int = 0
    temperature: float = 0.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_n_sigma: float = 0.0
    top_k: int = 0
    typical_p: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat_tau: float = 0.0
    mirostat_eta: float = 0.1
    mirostat_mu: float = 0.0
    """What the last token left of it (`Sampled.mirostat_mu`): who opens a row again says it."""
    seed: int = 0
    num_prompt: int = 0
    num_logprobs: int = -1
    """-1: none; 0: of the sampled token; n: of the n likeliest besides."""
    is_constrained: bool = False
    """A token comes only with a mask of those that may (`Executor.submit`)."""
    num_prompt_logprobs: int = -1
    """The same of the tokens that the row has already, where a plan wants their logits."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """An image in a row, told beside the row's tokens and never in a plan: tokens [first, first +
    count) stand for it, and their ids are those of a placeholder.

    patches: float32 [patches, numbers of a patch], what the model's encoder makes `count` rows of.
    name: of what is in it; one name, one content (of the prefix cache). grid: lines and columns of
    its tokens, where these have positions of three axes (mrope): time, line and column. whole: its
    tokens see all of it, so that they are computed in one step.
    """

    first: int
    count: int
    patches: npt.NDArray[np.float32]
    name: bytes
    grid: tuple[int, int] | None = None
    whole: bool = True

    @property
    def end(self) -> int:
        return self.first + self.count


@dataclass(frozen=True, slots=True)
class Scored:
    """How likely the model found tokens that a row had already, in order of position.

    first: the position of the first. width: numbers a token: its own and of the likeliest.
    token_ids (int32), logprobs (float32): [tokens, width], flat; a token's own comes first.
    """

    first: int
    width: int
    token_ids: array[int]
    logprobs: array[float]


class Sampled(NamedTuple):
    """What a step gives a row that wanted logits.

    token_id: -1 where none was drawn: `fault` says why (NaN logits), or the plan ended before the
    row's last token. mirostat_mu: after this token, for who opens the row again. scored: of a row
    with num_prompt_logprobs, for each of the plan's `num_logits` tokens but the row's last, the one
    that follows it.
    """

    row: int
    token_id: int
    logprob: float = 0.0
    top_logprobs: Sequence[tuple[int, float]] = ()
    fault: str | None = None
    mirostat_mu: float = 0.0
    scored: Scored | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """One `Sampled` per plan row with `num_logits > 0`, in plan order."""

    sampled: tuple[Sampled, ...] = field(default=())
