"""The `dnafeat` command: parse, check, dispatch, print. One sentence on standard error for anything a user can mend, and its exit code."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dnafeat.cli import announce
from dnafeat.cli.command import Command, found
from dnafeat.cli.commands import BY_NAME
from dnafeat.cli.help import command_named, overview, page, width_of
from dnafeat.cli.output import JsonOutput, Output, logged, styled
from dnafeat.errors import UNFORESEEN, DnafeatError, DnafeatWarning, Terminated, UnreachableError, UsageError, one_line
from dnafeat.text import did_you_mean, visible

if TYPE_CHECKING:
    import argparse

    from dnafeat.settings import Settings

# What `pip install dnafeat` leaves out because reading does not need it.
JOB_PACKAGES = (
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "packaging",
    "peft",
    "ray",
    "safetensors",
    "scipy",
    "sklearn",
    "threadpoolctl",
    "tokenizers",
    "torch",
    "tqdm",
    "transformers",
)
# Signals that end a command with a sentence, as Ctrl-C does.
_ENDING = ("SIGTERM", "SIGHUP")
# Seconds in which a command leaves its Ray.
_LEAVING_SECONDS = 45.0
_LEADING = ("-h", "--help", "--version", "--json", "-q", "--quiet", "-v", "--verbose")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code, one of `help.EXIT_CODES`."""
    return guarded(lambda: _run(list(sys.argv[1:] if arguments is None else arguments)))


def guarded(run: Callable[[], int]) -> int:
    """Call a job and turn its errors into one sentence and an exit code."""
    try:
        with _ended_by_signals(), warnings.catch_warnings():
            warnings.simplefilter("always", DnafeatWarning)
            warnings.showwarning = _show  # type: ignore[assignment]
            code = run()
            # Here rather than at the interpreter's end, where a closed pipe makes a traceback.
            sys.stdout.flush()
            return code
    except DnafeatError as error:
        _complain(str(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name not in JOB_PACKAGES:
            return _unforeseen(error)
        _complain(_lacks(error.name))
        return 2
    except KeyboardInterrupt:
        _complain("interrupted; send the same command again")
        return 130
    except Terminated as error:
        _complain(f"ended by {error.name}; send the same command again")
        return error.exit_code
    except BrokenPipeError:
        # What is left in the buffer has nowhere to go.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except MemoryError:
        # No fault of the program: the same input ends so each time on this machine.
        _complain("the memory of this machine is not enough for this input: cut long records with --tile, or give smaller files")
        return UsageError.exit_code
    except Exception as error:
        return _unforeseen(error)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Raise Terminated where a signal asks the process to end. A signal that is ignored (nohup) stays so."""

    def end(signum: int, frame: object) -> None:
        raise Terminated(signum)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in _ENDING if hasattr(signal, name)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _unforeseen(error: Exception) -> int:
    """Say in a sentence what nobody foresaw, with its traceback in a file, and return the exit code."""
    from dnafeat.storage import STORAGE_ERRORS, fault

    if isinstance(error, STORAGE_ERRORS) and fault(error, UsageError) is UnreachableError:
        # A disk or a server may fail where nobody looks for it.
        _complain(f"storage cannot be reached or written: {one_line(error)}; send the same command again when it can")
        return UnreachableError.exit_code
    place = "standard error"
    try:
        # Only its owner reads it: a message may hold a line of the input.
        number, place = tempfile.mkstemp(prefix="dnafeat-fault-", suffix=".log")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{' '.join(sys.argv[:2])}\n\n{''.join(traceback.format_exception(error))}")
    except OSError:
        traceback.print_exception(error)
    _complain(
        f"a fault of dnafeat that nobody foresaw: {type(error).__name__}: {one_line(error)}; its traceback is in {place}, please report it"
    )
    return UNFORESEEN


def _complain(sentence: str) -> None:
    print(f"dnafeat: {visible(sentence)}", file=sys.stderr)


def _lacks(package: str) -> str:
    return f"this command needs {package}: pip install 'dnafeat[jobs]'"


def _show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
    """Our own warnings as a sentence, others as Python shows them."""
    place = "" if issubclass(category, DnafeatWarning) else f"{filename}:{lineno}: {category.__name__}: "
    print(f"{place or 'dnafeat: '}{visible(str(message))}", file=sys.stderr)


def _run(arguments: list[str]) -> int:
    leading = []
    while arguments and arguments[0].startswith("-"):
        flag = arguments.pop(0)
        if flag not in _LEADING:
            raise UsageError(
                f"there is no option {flag}{did_you_mean(flag, _LEADING)} before a command: `dnafeat --help` lists commands"
            )
        leading.append(flag)
    if "--version" in leading:
        import dnafeat

        print(f"dnafeat {dnafeat.__version__}")
        return 0
    if not arguments or {"-h", "--help"} & {*leading}:
        print(styled(overview(), sys.stdout))
        return 0
    command, rest = command_named(arguments[0]), [*arguments[1:], *leading]
    if command.name == "config":
        from dnafeat.cli.show import show

        return show(command, rest)
    return _execute(command, rest)


def _execute(command: Command, arguments: list[str]) -> int:
    from dnafeat.cli.parser import parsed, parser_of

    parser = parser_of(command)
    options, problems = parsed(parser, arguments)
    if options.help:
        print(styled(page(command, parser, width_of(sys.stdout)), sys.stdout))
        return 0
    settings = configured(command, options, problems)
    if options.json and command.streams and getattr(settings, "output", None) == "-":
        raise UsageError("--json and --output - both fill standard output: leave out one of them")
    if package := announce.missing_packages(command):
        raise UsageError(_lacks(package))
    output = (JsonOutput if options.json else Output)(quiet=options.quiet)
    with logged(quiet=options.quiet, verbose=options.verbose):
        # Somebody who waits wants a sign; a log wants results.
        if command.needs and (sys.stderr.isatty() or options.verbose):
            output.remark(announce.beginning(command, settings.to_dict()))
        result = _called(command, settings, output, as_json=options.json)
    output.result(result, found(command.form) if command.form else None, lists=command.lists)
    return 0


def configured(command: Command, options: argparse.Namespace, problems: Sequence[str] = ()) -> Settings:
    """The settings of a command from file, flags and environment. Raises UsageError that names all that is wrong, missing files too."""
    from dnafeat.cli.options import given

    found_wrong = list(problems)
    kind = command.settings_class()
    flags = given(options, kind)
    values: dict[str, Any] = flags
    settings = None
    try:
        settings = kind.load(options.config, flags)
        values = settings.to_dict()
    except UsageError as error:
        found_wrong.append(str(error))
    # What stands behind an unknown option may be its value and no file.
    found_wrong += [] if problems else announce.missing_files(command, values)
    if found_wrong or settings is None:
        raise UsageError("; ".join(found_wrong))
    return settings


def _called(command: Command, settings: Settings, output: Output, *, as_json: bool) -> Any:
    """The result of a job, which gets of the command line what it has parameters for."""
    from dnafeat.cli.stdio import spooled_input

    job = command.run()
    offered = {
        "show": not output.quiet,
        "stdout": output.stream,
        "as_json": as_json,
        # What other jobs say is logged.
        **({"say": output.narrate} if command.narrates else {}),
    }
    accepted = inspect.signature(job).parameters
    with spooled_input(settings) as settings, _alone():
        return job(settings, **{name: value for name, value in offered.items() if name in accepted})


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep what libraries print out of the result, and leave the Ray that a job started.

    Ray reports workers that died on standard output, and from a thread.
    """
    with contextlib.redirect_stdout(sys.stderr):
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
            raise
        finally:
            # A small job does without Ray, which then need not be installed.
            if "dnafeat.cluster.session" in sys.modules:
                from dnafeat.cluster.session import stop_ray

                with _within(_LEAVING_SECONDS, failure):
                    stop_ray()


@contextlib.contextmanager
def _within(seconds: float, failure: BaseException | None) -> Iterator[None]:
    """Let a block that leaves Ray after a failure last so long, then end this process with the failure's sentence.

    Ray waits without end for processes of its own that have stopped. They end with this one.
    """

    def give_up() -> None:
        if failure is not None:
            code = guarded(functools.partial(_raise, failure))
            sys.stderr.flush()
            os._exit(code)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _raise(error: BaseException) -> int:
    raise error


def names() -> list[str]:
    """The names of all commands."""
    return list(BY_NAME)


if __name__ == "__main__":
    sys.exit(main())
