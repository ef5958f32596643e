"""activation: gated units, and ungated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.backends.reference.linear import linear
from ridgeline.model.graph.ops.activation import (
    XIELU_EDGE,
    XIELU_SLOPE,
    Activate,
    Activation,
    GatedActivation,
    Xielu,
)
from ridgeline.model.graph.ops.gated_linear import GatedLinear

CLAMP, CLAMPED_SLOPE = 7.0, 1.702  # of clamped_swiglu
CAPS: dict[Activation, float] = {"capped_silu_7": 7.0, "capped_silu_16": 16.0}


def gated_activation(op: GatedActivation, call: Call) -> tuple[Array]:
    gate, up = np.split(call.inputs[0], 2, axis=-1) if op.joint else call.inputs
    return (gated(op.activation, gate, up),)


def activate(op: Activate, call: Call) -> tuple[Array]:
    (x,) = call.inputs
    return (ACTIVATIONS[op.activation](x.astype(np.float64)).astype(x.dtype),)


def xielu(op: Xielu, call: Call) -> tuple[Array]:
    x = call.inputs[0].astype(np.float64)
    up, down = (np.logaddexp(0, w.astype(np.float64)) for w in call.weights)
    below = (np.expm1(np.minimum(x, XIELU_EDGE)) - x) * (XIELU_SLOPE + down)
    y = np.where(x > 0, up * x * x, below) + XIELU_SLOPE * x
    return (y.astype(call.inputs[0].dtype),)


def gated_linear(op: GatedLinear, call: Call) -> tuple[Array]:
    (halves,) = linear(op.linear, call)
    return gated_activation(
        GatedActivation(op.activation, joint=True), replace(call, inputs=(halves,), weights=())
    )


def gated(activation: Activation, gate: Array, up: Array) -> Array:
    """act(gate) * up, in float64 on the way."""
    g, u = gate.astype(np.float64), up.astype(np.float64)
    if activation == "clamped_swiglu":
        g, u = np.minimum(g, CLAMP), np.clip(u, -CLAMP, CLAMP) + 1
        return np.asarray(silu(CLAMPED_SLOPE * g) / CLAMPED_SLOPE * u).astype(gate.dtype)
    if activation == "silu_of_capped_10":
        return np.asarray(silu(np.minimum(g, 10)) * np.clip(u, -10, 10)).astype(gate.dtype)
    if activation in CAPS:
        cap = CAPS[activation]
        return np.asarray(np.minimum(silu(g), cap) * np.clip(u, -cap, cap)).astype(gate.dtype)
    return np.asarray(ACTIVATIONS[activation](g) * u).astype(gate.dtype)


def sigmoid(x: Array) -> Array:
    # With the exponential of a number that is not positive.
    z = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, z) / (1 + z))


def silu(x: Array) -> Array:
    return np.asarray(x * sigmoid(x))


def _gelu(x: Array) -> Array:
    erf = np.vectorize(math.erf, otypes=[np.float64])
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))


def _gelu_tanh(x: Array) -> Array:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return np.asarray(0.5 * x * (1 + np.tanh(inner)))


def _quick_gelu(x: Array) -> Array:
    return np.asarray(silu(1.702 * x) / 1.702)


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


def _relu2(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0) ** 2)


ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "silu": silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": _relu,
    "relu2": _relu2,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "identity": np.asarray,
}
