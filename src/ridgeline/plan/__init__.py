"""Deciding what to run on what: simulation of the scheduler that serves, and searches over it."""
