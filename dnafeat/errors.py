"""Errors a user can cause or must hear of: one sentence each, and the exit code that goes with it."""

from __future__ import annotations

import re
import signal

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# What S3 answers that refuses or fails.
_ANSWER = re.compile(r"<Code>([^<]+)</Code>\s*<Message>([^<]+)</Message>")

_LONGEST = 1_000  # characters of another library's message


UNFORESEEN = 70
"""Exit code of what nobody foresaw, a fault of dnafeat (EX_SOFTWARE of sysexits.h)."""


class DnafeatError(Exception):
    """Base of every error that is shown as a sentence and not as a traceback."""

    exit_code = UNFORESEEN


class UsageError(DnafeatError):
    """The command, its configuration or the input it names is wrong: a missing file, an unknown column, a bad model."""

    exit_code = 2


class CheckpointError(UsageError):
    """A model folder that cannot be trusted: keys missing, unexpected or of another shape, or no known architecture."""


class StrictError(DnafeatError):
    """`--strict` was asked for and entries were refused: only the rejects table is written."""

    exit_code = 1


class StoreError(DnafeatError):
    """The store cannot be read or written, or it does not hold what was asked for."""

    exit_code = 2


class MissingFileError(StoreError):
    """A file is not there. One of a table's snapshot may have been replaced, and deleted since: the table is loaded again."""


class DamagedError(StoreError):
    """A file of the store does not hold what was written: its checksums differ, or it is no whole Parquet file."""


class UnreachableError(StoreError):
    """Storage of whatever kind (stores, sources, models) does not answer, refuses, or is full. The same command continues when it can."""

    exit_code = 6


class MassCloseError(DnafeatError):
    """A run would close more of its source's entries than `--max-closed` allows. Nothing is published."""

    exit_code = 7


class HeldError(DnafeatError):
    """Statistics of a run moved against those of earlier runs, and the gate holds the channel. `--accept` lets the run pass."""

    exit_code = 8


class EncodingError(DnafeatError):
    """The workers could not finish. Nothing is published; the same command tries again."""

    exit_code = 5


class ClusterError(DnafeatError):
    """Ray does not start, does not answer, or lets nobody in."""

    exit_code = 5


class AuditError(DnafeatError):
    """What was written is not what was planned: nothing is published."""

    exit_code = 4


class ConflictError(DnafeatError):
    """A commit lost its race more often than it was worth retrying. The run can be sent again; what it encoded is kept."""

    exit_code = 3


class ForgottenError(ConflictError):
    """A subject was erased after the run had read its source, and publishing would bring it back."""


class BenchmarkError(DnafeatError):
    """What was to be measured gives other vectors than the plain model, or does not run: its rates would mean nothing."""

    exit_code = 4


class Terminated(BaseException):
    """A signal asked the process to end. No Exception, so that nothing on the way takes it for a failure that passes.

    Attributes
    ----------
    name : str
        Of the signal.
    exit_code : int
        128 and its number, as shells have it.
    """

    def __init__(self, signum: int) -> None:
        self.name = signal.Signals(signum).name
        self.exit_code = 128 + signum
        super().__init__(self.name)


class DnafeatWarning(UserWarning):
    """What a user should know and may have meant: shown as one sentence on standard error."""


def one_line(error: BaseException) -> str:
    """Shorten another library's message to one line, for use inside a sentence."""
    text = _COLOUR.sub("", str(error)).strip()
    if answer := _ANSWER.search(text):
        code, message = answer.groups()
        return f"{message.rstrip('.')} ({code})"
    if getattr(error.__cause__, "operation_name", "").startswith("Head") and isinstance(error, OSError) and error.errno != 2:
        # The answer to a HEAD has no body that would say why.
        return f"{error}, which S3 answers to credentials that are wrong or expired, too"
    # deltalake tells a cause below what it caused, each behind an arrow.
    lines = text.rpartition("\u21b3")[2].strip().splitlines()
    # Some quote what they could not read, whole.
    return lines[0][:_LONGEST].rstrip(".") if lines else type(error).__name__
