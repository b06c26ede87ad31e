"""Simulated shops with a known demand (docs/simulator.md)."""
