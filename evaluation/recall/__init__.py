"""Recall: items found in the whole catalogue, measured beside baselines."""
