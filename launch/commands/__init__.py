"""The commands by group: thin, so that `--help` answers at once; each imports what it needs."""
