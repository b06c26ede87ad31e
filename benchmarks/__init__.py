"""Measurements, each a command, `python -m benchmarks.NAME [--quick] --json FILE`; form: `benchmarks.figures`."""
