"""What can go wrong, by who can mend it. Each message is one line: what is wrong and what to do.

What a sweep does about each, and what is recorded, is in docs/reference/failures.md. `ends_sweep` says whether a sweep
stops when one of its runs raises it; otherwise the other runs go on.
"""


class UserError(Exception):
    """The request cannot be carried out as asked (exit code 2)."""

    exit_code = 2
    ends_sweep = True


class DiskFull(UserError):
    """No space left. Every other run of a sweep would meet it too."""


class Unusable(UserError):
    """The files of one run cannot be read or written, or are of another format. Nothing of it is changed."""

    ends_sweep = False


class Held(UserError):
    """Another process is at work on the run."""

    ends_sweep = False


class OutOfMemory(Exception):
    """The run needed more memory than there was (exit code 1); it is on record as failed only if that happens again and again."""

    exit_code = 1
    ends_sweep = False


class TrainingFailed(Exception):
    """The run itself failed, for example with a NaN loss (exit code 1); the failure is on record."""

    exit_code = 1
    ends_sweep = False


class Interrupted(Exception):
    """A signal ended the run after its checkpoint was written (exit code 128 + signal)."""

    def __init__(self, signal_number: int, message: str) -> None:
        # Both go to args, from which an exception is made anew on its way out of a worker process.
        super().__init__(signal_number, message)
        self.exit_code = 128 + signal_number

    def __str__(self) -> str:
        return str(self.args[1])


def one_line(error: Exception) -> str:
    """What a library says, which may be over several lines."""
    return " ".join(str(error).split())
