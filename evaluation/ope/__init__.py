"""What other lists would have earned, from logs of drawn ones."""
