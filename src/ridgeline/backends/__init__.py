"""Who does the arithmetic: one folder a backend, each an executor of `StepPlan`s over a graph.

Only `assemble.py` imports from here. A backend imports no other, except that tests and tables are
held against `reference`, which defines what every operator means.
"""
