"""Layers of the Llama family in few kernels: packed slates without padding, all towers as one batch."""
