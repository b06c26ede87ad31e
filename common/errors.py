"""The one error class that a user is meant to see, and any other error in one line."""


class UserError(Exception):
    """Something that the user can fix: the message is one sentence that names the place and gives a hint.

    Every command turns it into that sentence on stderr and exit code 2; any other exception is a bug and keeps its
    traceback.
    """


class DivergedError(UserError):
    """Losses or gradients of a training were not finite for too long."""


def format_error(error: Exception) -> str:
    """Kind and message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
