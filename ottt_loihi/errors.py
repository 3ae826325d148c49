"""Every error this project raises on purpose.

Each error is also a builtin, so that callers may catch ``ValueError`` or ``OSError``, and carries the exit code
its command ends with. A message says where, what was found, what is allowed and what to do.

==========  ============================================================
exit code   meaning
==========  ============================================================
0           done
1           verification failed, training diverged, or a Lava run died
2           wrong usage
3           a file that cannot be read, trusted or written
4           a network that does not fit the chip
==========  ============================================================
"""


class OtttError(Exception):
    """Base class: ``except OtttError`` catches everything this project raises on purpose."""

    exit_code = 1


class UsageError(OtttError, ValueError):
    """An argument of the wrong shape, dtype, range or name."""

    exit_code = 2


class BackendUnavailableError(OtttError, ImportError):
    """A backend (Lava, lava-dl, Loihi 2) is not installed."""

    exit_code = 2


class FileError(OtttError, OSError):
    """A file cannot be read or written, or has the wrong content."""

    exit_code = 3


class UnsafeFileError(FileError):
    """A file that would run code, follow links out of itself or allocate without bound; nothing of it was run."""


class ChipError(OtttError, ValueError):
    """A network that cannot be expressed on the chip, or does not fit into it."""

    exit_code = 4


class TrainingError(OtttError, ArithmeticError):
    """Training diverged: a loss or a weight is no longer finite."""

    exit_code = 1


class VerificationError(OtttError, AssertionError):
    """Two forms of one network differ. The message names the first difference."""

    exit_code = 1


class LavaError(OtttError, RuntimeError):
    """A Lava process raised, died or stalled; every process of the run has been ended."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
