"""Run configurations: the YAML files, their schema, and the error that every bad input ends in."""
