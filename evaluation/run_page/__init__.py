"""The report of one run: one self-contained page from its folder alone."""
