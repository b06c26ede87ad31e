"""Comparison of runs from their folders alone: one table, what changed, the fronts, and one page to look at them."""
