"""Time without arithmetic: steps take as long as the cost model says, on a clock of their own."""
