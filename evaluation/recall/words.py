"""How the recall in an evaluation is called and what it says, for the terminal and the report of a run."""

from typing import Any

from equipoise.evaluation.report import winner

CUTOFFS = (50, 200)
TITLES = {"all": "all", "new": "never bought"}
"""The two sets of items that are ranked: the whole catalogue, and what the shopper had never bought."""


def sentences(report: dict[str, Any]) -> list[str]:
    """Ours against the best baseline at the largest cutoff, for all items and for new ones; of `evaluate_recall`."""
    said = []
    for which, title in TITLES.items():
        found = report["against_best"][which]
        low, high = found["interval"]
        said.append(
            f"recall@{max(CUTOFFS)}, {title}: {found['difference']:+.3f} against {found['baseline']} "
            f"(95% interval {low:+.3f} to {high:+.3f}): {winner(low, high)}"
        )
    return said
