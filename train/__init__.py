"""Objectives, gradient balancing, and the training loop."""
