"""What a run folder keeps of the data it was trained on: `data.json`, from the manifest of the prepared folder."""

import json
from pathlib import Path

from equipoise.common.atomic import atomic_write
from equipoise.data.manifest import Manifest

FILE_NAME = "data.json"
KEPT = {"source", "created", "counts", "splits", "dropped", "notes", "hashes"}


def write_data_record(manifest: Manifest, folder: Path, run: Path) -> None:
    """Write the counts, splits, notes and hashes of a prepared folder into the run folder, whole or not at all."""
    record = {"folder": str(folder), **manifest.model_dump(mode="json", include=KEPT)}
    with atomic_write(run / FILE_NAME) as partial:
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
