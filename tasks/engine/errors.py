"""What can go wrong, by who can fix it. Each message is one line: what is wrong and what to do.

docs/reference/failures.md lists what a sweep does about each error and what is recorded.
`ends_sweep` says whether a sweep stops when one of its runs raises the error. Otherwise the other
runs continue.
"""


class UserError(Exception):
    """The request cannot be carried out as asked (exit code 2)."""

    exit_code = 2
    ends_sweep = True


class DiskFull(UserError):
    """No space left on the disk. Every other run of a sweep would fail in the same way."""


class Unusable(UserError):
    """The files of one run can't be read or written, or have another format. They are left unchanged."""

    ends_sweep = False


class Held(UserError):
    """Another process is working on the run."""

    ends_sweep = False


class OutOfMemory(Exception):
    """The run needed more memory than there was (exit code 1). It is recorded as failed only if this repeats."""

    exit_code = 1
    ends_sweep = False


class TrainingFailed(Exception):
    """The run itself failed, for example with a NaN loss (exit code 1). The failure is recorded."""

    exit_code = 1
    ends_sweep = False


class Diverged(TrainingFailed):
    """A loss or a final metric is not finite (exit code 1). It is recorded, and tables count it as a result."""


class Interrupted(Exception):
    """A signal ended the run after its checkpoint was written (exit code 128 + signal)."""

    def __init__(self, signal_number: int, message: str) -> None:
        # Both go to args, from which pickle rebuilds an exception that leaves a worker process.
        super().__init__(signal_number, message)
        self.exit_code = 128 + signal_number

    def __str__(self) -> str:
        return str(self.args[1])


def one_line(error: Exception) -> str:
    """Return a library's error message, which may span several lines, as one line."""
    return " ".join(str(error).split())
