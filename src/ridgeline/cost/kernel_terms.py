"""What an operator's time on a CPU is made of: amounts of terms, each with a price to be found.

The same function says the terms of a synthetic operator that was timed and of a model's operator
that is to be predicted, so that a profile (cost/kernels.py) is a price for each term and nothing
else. Terms follow how kernels work: a linear costs its weights, its outputs and its inputs, at so
many rows; attention the tokens that a thread reads and the pairs that it scores; all else its
rows and values. Does not know machines or prices.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import log

from ridgeline.cost.count import OPERATOR_NAMES
from ridgeline.model.graph.dims import SAMPLED
from ridgeline.model.graph.node import Graph, KvState, Node, StorageFormat, Value, Weight
from ridgeline.model.graph.ops.attention import Attention
from ridgeline.model.graph.ops.elementwise import Scale, Softcap
from ridgeline.model.graph.ops.gated_linear import GatedLinear
from ridgeline.model.graph.ops.linear import SCREENED_SHARE, Linear
from ridgeline.model.graph.ops.norm import AddNorm, Norm
from ridgeline.model.graph.ops.rows import SelectRows
from ridgeline.step import StepShape
from ridgeline.units import MIB

# Rows of a step between which a linear's time is taken to go straight.
ROW_MARKS = (1, 2, 4, 8, 16, 32, 64, 256, 512)
SMALL_MARKS = (1, 4, 16, 64, 512)
# The same for reading weights from memory; beyond, computing hides it.
COLD_MARKS = (1, 4, 16, 64)
_ALL_MARKS = sorted({*ROW_MARKS, *SMALL_MARKS, *COLD_MARKS})
DIM_MARKS, GROUP_MARKS = (64, 128, 256), (1, 4, 8)
# As attention parts its work (src/native/operators_attention.cpp): a context is cut into chunks,
# which threads share where rows are few.
CHUNK_TOKENS, SPLIT_ITEMS = 256, 4

# Rows of a linear that are computed together (src/native/operators_linear.cpp); what they multiply
# is quantized, with its sums, and lies in a core's own cache where it fits.
PART_ROWS, SPILL_MARK, ACTIVATION_BYTES, SPILL_BYTES = 288, 256, 2, 1 * MIB

# Rows up to which a screen multiplies activations in two terms (src/native/operators_head.cpp); and
# the share of strips that a row reads whose screen is activations' first terms, of more rows.
TWO_TERM_ROWS, SCREENED_BY_TERMS = 2, 0.001
# Where weights' first bytes are the screen, and not activations' first terms: two products of
# four and as much beside them, and of more rows than elsewhere; some of fewer have none
# (src/native/kernels_amx.cpp). Of the weight, what a row of up to so many reads after all, of texts
# that could go on in any way.
FIRST_BYTES_ISAS, FIRST_BYTES_SHARE, COPIED_ROWS, WHOLE_ROWS = ("amx",), 0.85, 16, (3, 4)
COPIED_SHARE = 0.025

# Tiles of more rows ask for what the next attention will read, where it is no more than this share
# of the last-level cache (src/native/cache_reads.cpp), in kernels of these instruction sets. AMX's
# ask for few rows' only, and lose most of what attention wins: they are priced as if none asked.
ASKING_ROWS, ASKED_SHARE, ASKING_ISAS = 6, 0.375, ("avx512",)

# Of what threads hand on to each other: rows beyond which a thread mostly has its own, bytes of a
# line, of a number, and of one that is quantized, with its share of scales.
HANDED_ROWS, LINE_BYTES, VALUE_BYTES, CODE_BYTES = 32, 64, 4.0, 1.2

Terms = dict[str, float]


@dataclass(frozen=True, slots=True)
class Place:
    """What of an operator's time its node alone does not say. late: its input is not quantized by
    whoever makes it; gated: by a gated linear, which makes a row in pieces and so cannot quantize
    it where a whole row has one scale. head: it makes the logits.
    """

    late: bool = False
    head: bool = False
    gated: bool = False


@dataclass(frozen=True, slots=True)
class Needs:
    """group: whose residuals an operator shares. read: bytes of weights, as stored, or of a cache,
    by format and by how many rows they are read for: what an operator may wait for where no cache
    holds them. handed: lines of memory that a thread has from another's cache, to read what that
    has made or to write where it has read: what takes longer where the threads' cores are far
    from each other.
    """

    group: str
    terms: Mapping[str, float]
    read: Mapping[str, float] = field(default_factory=dict)
    handed: float = 0.0


def places(graph: Graph) -> dict[str, Place]:
    """Of every linear, by node name."""
    made_by = {value.id: node for node in graph.nodes for value in node.outputs}
    logits = {value.id for value in graph.outputs}
    for node in reversed(graph.nodes):
        if isinstance(node.op, Softcap | Scale) and node.outputs[0].id in logits:
            logits.add(node.inputs[0].id)
    quantizing = (Norm, AddNorm, GatedLinear, SelectRows)
    found: dict[str, Place] = {}
    for node in graph.nodes:
        if isinstance(node.op, Linear | GatedLinear):
            maker = made_by.get(node.inputs[0].id)
            late = maker is None or not isinstance(maker.op, quantizing)
            gated = maker is not None and isinstance(maker.op, GatedLinear)
            found[node.name] = Place(late, node.outputs[0].id in logits, gated)
    return found


def needs_of(
    node: Node, place: Place, shape: StepShape, threads: int, isa: str = ""
) -> Needs | None:
    """None: the operator has nothing to do in this step. Operators that no synthetic graph has come
    out with terms that no profile has. isa: whose kernels it is; they screen logits differently.
    """
    rows = shape.num_sampled if is_sampled(node) else shape.num_tokens
    if rows == 0:
        return None
    handed = _handed(node, place, rows, threads)
    if isinstance(node.op, Linear | GatedLinear):
        is_decode = shape.num_tokens == shape.num_sampled
        return replace(_linear(node, node.op, place, rows, is_decode, isa), handed=handed)
    if isinstance(node.op, Attention):
        return replace(_attention(node, node.op, shape, threads), handed=handed)
    name = OPERATOR_NAMES[type(node.op)]
    if not node.outputs and not isinstance(node.state, KvState):
        return None
    return Needs(name, _values(name, node, rows), handed=handed)


def _handed(node: Node, place: Place, rows: int, threads: int) -> float:
    """Lines that pass between caches, of the thread that has most. Of a linear all rows' inputs,
    of which others have made their share, and the thread's channels of all outputs, whose lines
    others have read; of all else the thread's rows of both, of whose inputs others have made
    channels. Logits are not counted: most are never written.
    """
    if threads < 2:
        return 0.0
    others = 1 - 1 / threads
    rows = min(rows, HANDED_ROWS)
    of_linear = isinstance(node.op, Linear | GatedLinear)
    made = 0.0 if place.head or not node.outputs else float(_width(node.outputs[0]))
    read = max((_width(value) for value in node.inputs), default=0)
    made *= VALUE_BYTES if of_linear and not isinstance(node.op, GatedLinear) else CODE_BYTES
    if of_linear:
        return rows * (others * read * CODE_BYTES + made / threads) / LINE_BYTES
    return rows / threads * (others * read * VALUE_BYTES + made) / LINE_BYTES


def _width(value: Value) -> int:
    width = value.shape[-1] if len(value.shape) > 1 else 1
    return width if isinstance(width, int) else 0


def is_asked_for(needs: Needs, rows: int, isa: str, cache_bytes: float) -> bool:
    """Whether what an attention reads is in the caches when it comes to it."""
    asks = isa in ASKING_ISAS and rows > ASKING_ROWS
    return asks and needs.read.get("cache", 0.0) <= ASKED_SHARE * cache_bytes


def sample_needs(
    num_sampled: int, vocab: int, threads: int, screened: bool = False
) -> Needs | None:
    """Of drawing a token for each row of logits, which threads share. screened: only what a screen
    let through is looked at, as where rows want their largest logits.
    """
    if num_sampled == 0:
        return None
    most = -(-num_sampled // threads)
    logits = most * vocab * (COPIED_SHARE if screened else 1.0)
    terms = {"sample/1": 1.0, "sample/row": float(most), "sample/logit": logits}
    return Needs("sample", terms)


def is_sampled(node: Node) -> bool:
    """Whether it works on rows of logits, not on tokens."""
    return bool(node.outputs) and node.outputs[0].shape[0] is SAMPLED


def _linear(
    node: Node, op: Linear | GatedLinear, place: Place, rows: int, is_decode: bool, isa: str
) -> Needs:
    kind = "head" if place.head else "gated" if isinstance(op, GatedLinear) else "linear"
    weights = op.parts(node.weights)
    outputs = sum(weight.shape[0] for weight in weights)
    inputs = weights[0].shape[-1]
    names = {weight.format.name for weight in weights}
    exact = "float" if names <= {"F32", "F16", "BF16"} else "int"

    terms: Terms = {}
    for mark, share in _marks(rows, ROW_MARKS):
        at = f"@{mark}"
        _add(terms, f"linear/{exact}/1{at}", share)
        made = "gated_output" if kind == "gated" else "output"
        _add(terms, f"linear/{exact}/{made}{at}", share * outputs)
        if place.late or place.gated:
            name = "late" if place.late else "gated"
            _add(terms, f"linear/{exact}/{name}{at}", share)
            _add(terms, f"linear/{exact}/{name}_input{at}", share * inputs)
        if mark >= SPILL_MARK:
            part = -(-mark // max(-(-mark // PART_ROWS), 2))
            spilled = min(max(part * inputs * ACTIVATION_BYTES / SPILL_BYTES - 1, 0.0), 1.0)
            _add(terms, f"linear/{exact}/spill{at}", share * outputs * inputs * spilled)
        for weight in weights:
            # A head's int8 activations have two terms, so its rows cost more.
            name = f"{kind}/{weight.format.name}{at}"
            _add(terms, name, share * weight.shape[0] * weight.shape[1])
    read: Terms = {}
    for mark, share in _marks(min(rows, COLD_MARKS[-1]), COLD_MARKS):
        for weight in weights:
            _add(read, f"{weight.format.name}/weights@{mark}", share * weight.num_bytes)
    if not isinstance(op, Linear) or not op.screen or not is_decode:
        return Needs(kind, terms, read)
    copied, share = op.screened_rows(weights), SCREENED_SHARE
    if isa in FIRST_BYTES_ISAS and exact == "int":
        copied = 0 if rows in WHOLE_ROWS else COPIED_ROWS
        share = SCREENED_SHARE if rows <= TWO_TERM_ROWS else COPIED_SHARE
    if rows <= copied:
        return _screened(Needs(kind, terms, read), weights[0], op.screen, rows, share)
    if exact == "int" and rows > copied > 0:
        _by_terms(terms, weights[0], rows, isa)
    return Needs(kind, terms, read)


def _by_terms(terms: Terms, weight: Weight, rows: int, isa: str) -> None:
    """A head's that multiplies its weight with activations' first terms, as other linears do, or
    its first bytes with both, and then a little of it, a row at a time, with all.
    """
    name = weight.format.name
    for term in [term for term in terms if term.startswith(f"head/{name}@")]:
        if isa in FIRST_BYTES_ISAS:
            terms[term] *= FIRST_BYTES_SHARE
        else:
            _add(terms, term.replace("head/", "linear/"), terms.pop(term))
    _add(terms, f"head/{name}@1", rows * SCREENED_BY_TERMS * weight.num_elements)


def _screened(
    whole: Needs, weight: Weight, screen: StorageFormat, rows: int, share: float
) -> Needs:
    """A head's, whose screen is read in place of its weight, and then a share of that, a row at a
    time.
    """
    name, other = weight.format.name, screen.name
    little = rows * share
    # A few rows have activations in two terms, as the head's; more have one, as other linears.
    kind = "head" if rows <= TWO_TERM_ROWS else "linear"
    old, new = f"head/{name}@", f"{kind}/{other}@"
    terms = {term.replace(old, new): amount for term, amount in whole.terms.items()}
    _add(terms, f"head/{name}@1", little * weight.num_elements)
    ratio = replace(weight, format=screen).num_bytes / weight.num_bytes
    read = {
        term.replace(f"{name}/weights@", f"{other}/weights@"): ratio * amount
        for term, amount in whole.read.items()
    }
    _add(read, f"{name}/weights@1", little * weight.num_bytes)
    return Needs(whole.group, terms, read)


def _attention(node: Node, op: Attention, shape: StepShape, threads: int) -> Needs:
    state = node.state
    assert isinstance(state, KvState)
    group = op.num_heads // state.kv_heads
    prefix = f"attention/{state.format.name}"
    terms: Terms = {f"{prefix}/1": 1.0}
    decode: list[int] = []
    queries = pairs = 0.0
    for new, context in zip(shape.new_tokens, shape.context_lens, strict=True):
        if new == 1 and shape.num_tokens <= 64:
            decode.append(_seen(context + 1, state.window))
            continue
        queries += new * op.num_heads
        pairs += op.num_heads * _pairs(new, context, state.window, op.causal)
    items, chunks = 0.0, 0.0
    if decode:
        items, tokens, chunks = _share(decode, state.kv_heads, threads)
    for (dim, group_mark), share in _corners(state.key_dim, group):
        at = f"{prefix}/{dim}x{group_mark}"
        if decode:
            _add(terms, f"{at}/item", share * items)
            _add(terms, f"{at}/token", share * tokens)
            _add(terms, f"{at}/chunk", share * chunks)
        if queries:
            _add(terms, f"{at}/query", share * queries / threads)
            _add(terms, f"{at}/pair", share * pairs / threads)
    read = state.bytes_per_token * sum(decode)
    return Needs("attention", terms, {"cache": read} if read else {})


def _share(seen: list[int], kv_heads: int, threads: int) -> tuple[float, float, float]:
    """Of the thread that has most: rows of a KV head, cached tokens of one, and parts to merge."""
    items = len(seen) * kv_heads
    chunks = [-(-count // CHUNK_TOKENS) for count in seen]
    if threads > 1 and items < SPLIT_ITEMS * threads and max(chunks) > 1:
        parts = kv_heads * sum(chunks)
        most = -(-parts // threads)
        tokens = kv_heads * sum(seen) * most / parts
        return items / threads, tokens, float(most)
    most = -(-items // threads)
    return float(most), most * sum(seen) / len(seen), 0.0


def _seen(tokens: int, window: int | None) -> int:
    return tokens if window is None else min(tokens, window)


def _pairs(new: int, context: int, window: int | None, causal: bool) -> float:
    if not causal:
        return float(new * _seen(context + new, window))
    shape = StepShape((new,), (context,), 0)
    return float(shape.attended_pairs(window))


def _values(name: str, node: Node, rows: int) -> Terms:
    values = 0
    for value in (*node.outputs, *(node.inputs if not node.outputs else ())):
        values += _width(value)
    written = 0
    if name in ("rope_kv_write", "kv_write") and isinstance(node.state, KvState):
        name = f"{name}/{node.state.format.name}"
        written = node.state.kv_heads * (node.state.key_dim + node.state.value_dim)
    terms: Terms = {}
    for mark, share in _marks(rows, SMALL_MARKS):
        _add(terms, f"{name}/1@{mark}", share)
        _add(terms, f"{name}/value@{mark}", share * values)
        if written:
            _add(terms, f"{name}/written@{mark}", share * written)
    return terms


def row_span(count: int) -> tuple[int, int]:
    """The marks between which all terms but those of attention go straight in rows, around a count;
    beyond the last, that twice.
    """
    at = bisect_right(_ALL_MARKS, count)
    return _ALL_MARKS[at - 1], _ALL_MARKS[min(at, len(_ALL_MARKS) - 1)]


def _marks(count: int, marks: tuple[int, ...]) -> list[tuple[int, float]]:
    """The marks around a count, and its shares of them; beyond the last, multiples of that."""
    if count >= marks[-1]:
        return [(marks[-1], count / marks[-1])]
    at = bisect_right(marks, count) - 1
    low, high = marks[at], marks[at + 1]
    share = (count - low) / (high - low)
    return [(low, 1 - share), (high, share)] if share else [(low, 1.0)]


def _corners(dim: int, group: int) -> list[tuple[tuple[int, int], float]]:
    """Measured widths and group sizes around a head's, in logarithms."""
    return [
        ((d, g), share_d * share_g)
        for d, share_d in _log_marks(dim, DIM_MARKS)
        for g, share_g in _log_marks(group, GROUP_MARKS)
    ]


def _log_marks(count: int, marks: tuple[int, ...]) -> list[tuple[int, float]]:
    if count <= marks[0]:
        return [(marks[0], count / marks[0] if marks is DIM_MARKS else 1.0)]
    if count >= marks[-1]:
        return [(marks[-1], count / marks[-1])]
    at = bisect_right(marks, count) - 1
    low, high = marks[at], marks[at + 1]
    share = log(count / low) / log(high / low)
    return [(low, 1 - share), (high, share)] if share else [(low, 1.0)]


def _add(terms: Terms, name: str, amount: float) -> None:
    terms[name] = terms.get(name, 0.0) + amount
