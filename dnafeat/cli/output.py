"""Where a command prints: its result on standard output, as text or as one JSON document, and remarks on standard error."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import IO, Any

from dnafeat.errors import UsageError
from dnafeat.text import filled, iso, visible

# Fields of a record that its line does not show: those of Python and, with a leading underscore, of Ray.
_HIDDEN = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "task", "run_id", "source"}
_HEADING = re.compile(r"^(Usage:|[A-Z][a-z ]*:$)", re.MULTILINE)
_BOLD = "\x1b[1m\\1\x1b[0m"


@dataclass(frozen=True, kw_only=True)
class Report:
    """A result together with its text, for commands whose text is more than a function of the result.

    Attributes
    ----------
    document : Any
        What `--json` prints; None where the text is printed with and without.
    text : str
        Empty where there is nothing to print, such as after writing to standard output.
    remarks : tuple of str
        Sentences for standard error.
    headings : bool
        Whether lines such as `Usage:` are headings, bold on a terminal.
    """

    document: Any
    text: str
    remarks: tuple[str, ...] = ()
    headings: bool = False


class Output:
    """The console: results as text, as wide as the terminal; a pipe or a file gets lines of any width.

    Parameters
    ----------
    quiet : bool
        Print the result alone: of a summary its first line, and no remarks.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        # A job may redirect standard output, so that libraries cannot write into the result.
        self.stream: IO[str] = sys.stdout

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None where there is none."""
        return terminal_width(self.stream)

    def result(self, value: Any, form: Callable[..., str] | None, *, lists: bool) -> None:
        """Print what a job returned."""
        remarks: tuple[str, ...] = ()
        if isinstance(value, Report):
            text, remarks = value.text, value.remarks
        else:
            assert form is not None, "a job without a form returns a Report"
            # A plain mapping is printed as JSON, which escapes by itself.
            value = value if type(value) is dict else _on_one_line(value)
            fits = "width" in inspect.signature(form).parameters
            text = form(value, width=self.width) if fits else filled(form(value), self.width)
        if self.quiet and not lists:
            text = text.partition("\n")[0]
        if text:
            shown = visible(text, keep="\n")
            print(styled(shown, self.stream) if isinstance(value, Report) and value.headings else shown, file=self.stream)
        for one in remarks:
            self.remark(one)

    def narrate(self, text: str) -> None:
        """Print a part of a result that comes bit by bit."""
        if not self.quiet:
            print(visible(filled(text, self.width), keep="\n\t"), file=self.stream, flush=True)

    def remark(self, text: str) -> None:
        """Say something beside the result, on standard error."""
        if not self.quiet:
            print(f"dnafeat: {visible(text)}", file=sys.stderr, flush=True)


class JsonOutput(Output):
    """One JSON document on standard output and nothing else there."""

    def result(self, value: Any, form: Callable[..., str] | None, *, lists: bool) -> None:
        if isinstance(value, Report) and value.document is None:
            super().result(value, form, lists=lists)
            return
        print(json.dumps(_document(value), default=_plain), file=self.stream)
        for one in value.remarks if isinstance(value, Report) else ():
            self.remark(one)

    def narrate(self, text: str) -> None:
        if not self.quiet:
            print(visible(text, keep="\n"), file=sys.stderr, flush=True)


def _on_one_line(value: Any) -> Any:
    """A result whose texts have no line ends of their own, which would pass for lines of the report; others as they are."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_on_one_line(one) for one in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        texts = {name: shown for name, one in own.items() if (shown := _on_one_line(one)) != one}
        return dataclasses.replace(value, **texts) if texts else value
    if isinstance(value, dict):
        return type(value)({name: _on_one_line(one) for name, one in value.items()})
    return value


def agreed(plan: Callable[[], str], question: str) -> None:
    """Ask on a terminal, below what would be done, whether to go on. Raises UsageError unless the answer is yes.

    Without a terminal nothing is asked, so that scripts go on as they are.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    print(visible(filled(plan(), terminal_width(sys.stderr)), keep="\n"), file=sys.stderr)
    print(f"{question}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("not agreed to, so nothing was changed (--yes goes on without a question)")


def _document(value: Any) -> Any:
    if isinstance(value, Report):
        return _document(value.document)
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return [_document(one) for one in value] if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    """A value that JSON has no kind for."""
    if isinstance(value, datetime):
        return iso(value)
    return value.isoformat() if isinstance(value, date) else str(value)


def terminal_width(stream: IO[str]) -> int | None:
    """Columns of the terminal behind a stream; None where there is none."""
    return max(40, shutil.get_terminal_size().columns) if stream.isatty() else None


def coloured(stream: IO[str]) -> bool:
    """Whether a stream is a terminal that may show headings in bold (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, stream: IO[str]) -> str:
    """A help page with bold headings where the stream shows them."""
    return _HEADING.sub(_BOLD, text) if coloured(stream) else text


class _Lines(logging.Handler):
    """Log records of dnafeat's modules as plain lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        # On a cluster a job's log has every record already, as JSON.
        observe = sys.modules.get("dnafeat.cluster.observe")
        if observe is not None and observe.told_in_records():
            return
        prefix = "dnafeat: " if record.levelno >= logging.WARNING else ""
        with contextlib.suppress(BrokenPipeError):
            print(f"{prefix}{visible(record.getMessage() + _fields(record))}", file=sys.stderr, flush=True)


def _fields(record: logging.LogRecord) -> str:
    """The fields that a job's record carries: `, shard 0-1, sequences 300`."""
    own = {name: value for name, value in vars(record).items() if name not in _HIDDEN and not name.startswith("_")}
    return "".join(f", {name} {value}" for name, value in own.items())


@contextlib.contextmanager
def logged(*, quiet: bool, verbose: bool) -> Iterator[None]:
    """Show what dnafeat logs on standard error for as long as the block runs: sentences; with `verbose` every record."""
    logger, handler = logging.getLogger("dnafeat"), _Lines()
    handler.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    if not verbose:
        # Records of the logger itself carry fields for machines; sentences for people come from its modules.
        handler.addFilter(lambda record: record.name != "dnafeat")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else min(before, logging.INFO) if before else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
