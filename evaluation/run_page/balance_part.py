"""What `equipoise diagnose` says of a run, as the page shows it."""

from dataclasses import asdict
from typing import Any

from equipoise.common.errors import UserError
from equipoise.evaluation.balance.diagnosis import conclusions, diagnose, read_history
from equipoise.evaluation.compare.run_record import RunRecord
from equipoise.evaluation.report import json_ready
from equipoise.evaluation.run_page.missing import missing


def balance_part(record: RunRecord) -> dict[str, Any]:
    """Pairs (the worst fight first), objectives, and the conclusions in sentences."""
    try:
        diagnosis = diagnose(read_history(record.folder), record.objectives)
    except UserError:
        command = f"equipoise train {record.folder}/config.yaml --resume"
        return missing("The run has not reached a log line yet, so nothing is known of its gradients.", command)
    pairs = [{**asdict(pair), "fights": pair.fights, "worst_layer": pair.worst_layer} for pair in diagnosis.pairs]
    return json_ready(
        {
            "steps": diagnosis.steps,
            "pairs": pairs,
            "objectives": [asdict(objective) for objective in diagnosis.objectives],
            "sentences": conclusions(diagnosis),
        }
    )
