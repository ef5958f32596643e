"""Answers that keep to a grammar: llguidance makes the masks, and nothing comes unconstrained."""

from ridgeline.engine.constrain.structured import StructuredOutputs

__all__ = ["StructuredOutputs"]
