"""The Pareto front of a trained run: trade-offs measured on a score table, and the choice of one of them."""
