"""`equipoise sweep`: many runs of one base configuration, planned, executed, resumed and compared."""
