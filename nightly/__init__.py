"""A training every night: appended days, a start from the run before, champion against challenger, a switch."""
