"""What a model's own biases put into its keys, and how an int8 cache evens it out.

A few channels of Qwen2's keys have biases a hundred times as large as all that a token adds to any:
one scale for a token's whole head would leave the others a few codes. So an int8 cache keeps

    (key - centre) / 2^exponent

of each channel. What all keys of a head have in common adds the same to all scores of a query, and
softmax does not see it: the centre is the mean of the bias as it is rotated to the first
`POSITIONS` positions, all of a pair that turns slowly, nothing of one that turns fast. It stays out
where scores are capped, or share their softmax with a sink. What turns is left, and divided by a
power of two that queries are multiplied with: exact both ways (SmoothQuant, Xiao et al. 2023, moves
scales so between activations and weights). The two channels of a pair take turns at the bias, and
share their power.

A function of the model alone: not of a context's length, nor of what a request says. Keys that a
norm makes are not balanced: no bias passes it.
"""

from __future__ import annotations

import cmath
from collections.abc import Callable, Sequence
from math import hypot, log2, sin, sqrt

from ridgeline.model.graph.kv_format import KeyBalance
from ridgeline.model.graph.node import Graph, KvState, Node, Weight
from ridgeline.model.graph.ops.attention import Attention, KvWrite
from ridgeline.model.graph.ops.elementwise import Split
from ridgeline.model.graph.ops.linear import Linear
from ridgeline.model.graph.ops.rope import Rope, Rotation

Numbers = Callable[[Weight], Sequence[float]]  # a weight's, row by row

# What tokens themselves add to a channel: where no more than that turns, keys stay as they are.
CONTENT = 4.0
POSITIONS = 32768


def key_balances(graph: Graph, numbers: Numbers) -> dict[str, KeyBalance]:
    """Of each cache whose keys have a bias, by the state's name. graph: not fused."""
    makers = {value.id: node for node in graph.nodes for value in node.outputs}
    shifted = _shift_does_not_show(graph)
    found = {}
    for node in graph.nodes:
        state = node.state
        if not isinstance(node.op, KvWrite) or not isinstance(state, KvState) or state.latent:
            continue
        rotation, bias = _bias_of_keys(node, makers, numbers)
        if bias is None:
            continue
        heads = [
            head_balance(bias[first : first + state.key_dim], rotation, shifted[state.name])
            for first in range(0, len(bias), state.key_dim)
        ]
        found[state.name] = KeyBalance(
            tuple(number for head in heads for number in head.centres),
            tuple(number for head in heads for number in head.exponents),
        )
    return found


def head_balance(bias: Sequence[float], rotation: Rotation | None, shifted: bool) -> KeyBalance:
    """Of one head's channels. shifted: may its keys have a centre? 2^exponent is near
    hypot(what turns, CONTENT) / CONTENT, of what turns the root of its mean square.
    """
    centres, turning = list(bias), [0.0] * len(bias)
    if not shifted:
        centres, turning = [0.0] * len(bias), [abs(number) for number in bias]
    if rotation is not None:
        half = len(rotation.frequencies)
        for i, frequency in enumerate(rotation.frequencies):
            a, b = (2 * i, 2 * i + 1) if rotation.interleaved else (i, i + half)
            pair = complex(bias[a], bias[b]) * rotation.magnitude
            mean = pair * mean_turn(frequency) if shifted else 0j
            centres[a], centres[b] = mean.real, mean.imag
            turning[a] = turning[b] = sqrt(max(abs(pair) ** 2 - abs(mean) ** 2, 0.0))
    return KeyBalance(
        tuple(centres), tuple(round(log2(hypot(size, CONTENT) / CONTENT)) for size in turning)
    )


def mean_turn(frequency: float) -> complex:
    """The mean of e^(i position frequency) over the first `POSITIONS` positions."""
    turns = sin(frequency / 2)
    if turns == 0.0:
        return complex(1.0)
    size = sin(POSITIONS * frequency / 2) / (POSITIONS * turns)
    return cmath.rect(size, (POSITIONS - 1) * frequency / 2)


def _shift_does_not_show(graph: Graph) -> dict[str, bool]:
    """Of each cache: whether one number added to all of a query's scores changes nothing."""
    found: dict[str, bool] = {}
    for node in graph.nodes:
        if isinstance(node.state, KvState):
            name = node.state.name
            bare = not isinstance(node.op, Attention) or not (node.op.softcap or node.op.sinks)
            found[name] = found.get(name, True) and bare
    return found


def _bias_of_keys(
    write: Node, makers: dict[int, Node], numbers: Numbers
) -> tuple[Rotation | None, Sequence[float] | None]:
    """What rotates the keys that a node writes, and the bias of the linear that makes them, if it
    has one and it is finite: one that is not is the model's fault, and shows where it is used.
    """
    value, rotation = write.inputs[0], None
    maker = makers.get(value.id)
    if maker is not None and isinstance(maker.op, Rope):
        rotation = maker.op.rotation
        value = maker.inputs[0]
        maker = makers.get(value.id)
    first, width = 0, value.shape[-1]
    assert isinstance(width, int)
    if maker is not None and isinstance(maker.op, Split):
        first = sum(maker.op.sizes[: maker.outputs.index(value)])
        maker = makers.get(maker.inputs[0].id)
    if maker is None or not isinstance(maker.op, Linear) or not maker.op.bias:
        return rotation, None
    biases = [n for bias in maker.op.biases(maker.weights) for n in numbers(bias)]
    found = biases[first : first + width]
    return rotation, found if all(abs(number) < 1e30 for number in found) else None
