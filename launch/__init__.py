"""One thin file per command, and the command line that names them."""
