"""Attention over slates: prefixes against themselves, candidates against their prefix and themselves."""
