"""What processes of a job tell each other and their callers."""

INTERRUPTED = 75
"""Exit code of a training that was stopped and that --resume goes on with (EX_TEMPFAIL of sysexits.h)."""

LAUNCHER = "EQUIPOISE_LAUNCHER"
"""Variable with the process id of `equipoise launch`, for the processes that it starts."""
