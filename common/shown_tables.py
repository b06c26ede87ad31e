"""The tables of a log of shown lists (serving/shown_log.py writes them, evaluation/ope reads them)."""

IMPRESSIONS, CANDIDATES = "impressions", "candidates"
"""Folders of Parquet parts."""
PROBABILITY, DELTA, ATTRIBUTE = "p", "delta_", "attribute_"
"""Before the name of an objective, or of an item attribute, in columns of candidates."""
