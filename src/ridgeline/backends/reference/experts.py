"""route and experts: mixtures, token by token and slot by slot."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.activation import ACTIVATIONS, gated
from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.experts import Experts, ZeroExperts
from ridgeline.model.graph.ops.route import Route


def route(op: Route, call: Call) -> tuple[Array]:
    x = call.inputs[0]
    vectors = list(call.weights[1:])
    logits = (x @ call.weights[0].T).astype(np.float64)
    if op.bias:
        logits = logits + vectors.pop(0)
    if op.scores == "sparsemixer":
        return (sparse_slots(op, logits).astype(x.dtype),)
    if op.scores == "sigmoid":
        scores = 1 / (1 + np.exp(-logits))
    elif op.scores == "sqrt_softplus":
        scores = np.sqrt(np.logaddexp(0, logits))
    else:
        scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
    by = scores + vectors.pop(0) if op.correction else scores
    if op.num_groups > 1:
        groups = by.reshape(len(by), op.num_groups, -1)
        best = np.sort(groups, axis=-1)[..., -op.group_best :].sum(axis=-1)
        chosen = np.argsort(-best, axis=-1, kind="stable")[:, : op.top_groups]
        allowed = np.zeros(best.shape, bool)
        np.put_along_axis(allowed, chosen, True, axis=-1)
        by = np.where(allowed[..., None], groups, -np.inf).reshape(by.shape)
    ids = np.argsort(-by, axis=-1, kind="stable")[:, : op.top_k]
    if op.by_token:
        ids = call.weights[-1][call.inputs[1]].astype(np.int64)
    weights = np.take_along_axis(scores, ids, axis=-1)
    if op.normalize:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    weights = weights * op.scale
    if op.gain:
        weights = weights * vectors.pop(0)[ids]
    return (np.concatenate([ids, weights], axis=-1).astype(x.dtype),)


def sparse_slots(op: Route, logits: Array) -> Array:
    left, ids, weights = logits.copy(), [], []
    for _ in range(op.top_k):
        best = left.argmax(axis=-1)[:, None]
        most = np.take_along_axis(left, best, axis=-1)
        far = most - logits > 2 * op.jitter * np.maximum(np.abs(logits), most)
        ids.append(best)
        weights.append(1 / np.where(far, 0.0, np.exp(left - most)).sum(axis=-1, keepdims=True))
        np.put_along_axis(left, best, -np.inf, axis=-1)
    return np.concatenate([*ids, *weights], axis=-1)


def experts(op: Experts, call: Call) -> tuple[Array]:
    x, slots = (value.reshape(-1, value.shape[-1]) for value in call.inputs)
    ids, weights = np.split(slots, 2, axis=-1)
    split = 2 + op.gated
    (*ups, down), biases = call.weights[:split], call.weights[split:]
    y = np.zeros_like(x)
    for slot in range(op.top_k):
        part = np.zeros_like(x)
        for number in np.unique(ids[:, slot]):
            rows = np.flatnonzero(ids[:, slot] == number)
            expert = int(number) - op.first_expert
            if not 0 <= expert < len(down):
                continue
            weight = weights[rows, slot, None]
            inputs = x[rows] * weight if op.weigh_input else x[rows]
            hidden = [inputs @ w[expert].T for w in ups]
            if op.bias:
                hidden = [h + b[expert] for h, b in zip(hidden, biases[:-1], strict=True)]
            if op.gated:
                unit = gated(op.activation, hidden[0], hidden[1])
            else:
                unit = ACTIVATIONS[op.activation](hidden[0].astype(np.float64)).astype(x.dtype)
            out = unit @ down[expert].T
            if op.bias:
                out = out + biases[-1][expert]
            part[rows] = out if op.weigh_input else out * weight
        y = y + part
    return (y.reshape(call.inputs[0].shape),)


def zero_experts(op: ZeroExperts, call: Call) -> tuple[Array]:
    x, slots = call.inputs
    ids, weights = np.split(slots, 2, axis=-1)
    return (x * np.where(ids >= op.first, weights, 0).sum(axis=-1, keepdims=True),)
