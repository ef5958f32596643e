"""Ridgeline: plan, shrink, serve, measure and explain a language model."""
