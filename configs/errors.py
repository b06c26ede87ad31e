"""The one error class that a user is meant to see."""


class UserError(Exception):
    """Something the user can mend: the message is one sentence that names the place and the way out.

    Every command turns it into that sentence on stderr and exit code 2; any other exception is a fault of ours and
    keeps its traceback.
    """
