"""What can go wrong, by who can mend it. Each message is one line: what is wrong and what to do."""


class UserError(Exception):
    """The request cannot be carried out as asked (exit code 2)."""

    exit_code = 2


class Held(UserError):
    """Another process is at work on the run."""


class OutOfMemory(Exception):
    """The run needed more memory than there was (exit code 1); it is on record as failed only if that happens again and again."""

    exit_code = 1


class TrainingFailed(Exception):
    """The run itself failed, for example with a NaN loss (exit code 1); the failure is on record."""

    exit_code = 1


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
