"""Serving an export: requests as texts, one model pass for several shoppers, ranked candidates."""
