"""From tables to batches: tables → slates → tokens → batches."""
