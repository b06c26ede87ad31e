"""Offline metrics of a score table: pointwise, ranking at an operating point, user-group gaps. Numpy only, no torch."""

from equipoise.evaluation.metrics.pointwise import pointwise_metrics
from equipoise.evaluation.metrics.score_table import ScoreTable

__all__ = ["ScoreTable", "pointwise_metrics"]
