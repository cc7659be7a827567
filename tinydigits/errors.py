"""The errors that a user can cause: one sentence each, printed without a traceback."""


class Failure(Exception):
    """Something went wrong that the user can mend: the message says what and how. Exit code 1."""

    exit_code = 1


class UsageError(Failure, ValueError):
    """The request itself makes no sense: the message says what would. Exit code 2."""

    exit_code = 2


def reason(error: BaseException) -> str:
    """What went wrong, for the inside of a sentence: "No space left on device"."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
