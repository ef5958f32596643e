"""Ridgeline: plan, shrink, serve, measure and explain a language model.

`from ridgeline import LLM, SamplingParams` is the Python API; names load when first used, so that
importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ridgeline.async_engine import AsyncEngine
    from ridgeline.engine.beams import BeamSearchOutput, BeamSearchParams
    from ridgeline.engine.outputs import CompletionOutput, Delta, RequestOutput
    from ridgeline.engine.pooled import (
        ClassificationRequestOutput,
        EmbeddingRequestOutput,
        ScoringRequestOutput,
    )
    from ridgeline.engine.request import SamplingParams, Service
    from ridgeline.errors import (
        CapacityError,
        EngineError,
        ModelError,
        Overloaded,
        RequestError,
        RidgelineError,
    )
    from ridgeline.llm import LLM

__version__ = "0.1.0"

_HOMES = {
    "AsyncEngine": "ridgeline.async_engine",
    "LLM": "ridgeline.llm",
    "BeamSearchOutput": "ridgeline.engine.beams",
    "BeamSearchParams": "ridgeline.engine.beams",
    "CompletionOutput": "ridgeline.engine.outputs",
    "Delta": "ridgeline.engine.outputs",
    "RequestOutput": "ridgeline.engine.outputs",
    "ClassificationRequestOutput": "ridgeline.engine.pooled",
    "EmbeddingRequestOutput": "ridgeline.engine.pooled",
    "ScoringRequestOutput": "ridgeline.engine.pooled",
    "SamplingParams": "ridgeline.engine.request",
    "Service": "ridgeline.engine.request",
    "CapacityError": "ridgeline.errors",
    "EngineError": "ridgeline.errors",
    "ModelError": "ridgeline.errors",
    "Overloaded": "ridgeline.errors",
    "RequestError": "ridgeline.errors",
    "RidgelineError": "ridgeline.errors",
}

__all__ = [
    "LLM",
    "AsyncEngine",
    "BeamSearchOutput",
    "BeamSearchParams",
    "CapacityError",
    "ClassificationRequestOutput",
    "CompletionOutput",
    "Delta",
    "EmbeddingRequestOutput",
    "EngineError",
    "ModelError",
    "Overloaded",
    "RequestError",
    "RequestOutput",
    "RidgelineError",
    "SamplingParams",
    "ScoringRequestOutput",
    "Service",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ridgeline' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
