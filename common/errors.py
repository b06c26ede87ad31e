"""The one error class that a user is meant to see, and how any other error is told in one line."""


class UserError(Exception):
    """Something the user can mend: the message is one sentence that names the place and the way out.

    Every command turns it into that sentence on stderr and exit code 2; any other exception is a fault of ours and
    keeps its traceback.
    """


def reason_of(error: Exception) -> str:
    """Kind and message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
