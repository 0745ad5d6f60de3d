"""The application behind the `trainwire` command: it finds the subcommand, runs it and reports its errors."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Final

from cyclopts import App, CycloptsError, MissingArgumentError, UnusedCliTokensError

from trainwire_protocol.errors import SinkBugError, TrainwireError
from trainwire_sinks.cli.streams import report_lost_output, tolerant_streams
from trainwire_sinks.runtime.exit_codes import ExitCode, exit_code
from trainwire_sinks.text.format import one_line

HELP: Final = """Run the sinks that write what a training publishes, and inspect, watch and control trainings.

TARGET, in any command, is a run's folder, a connection file or an address.
With --verbose, errors are printed with their tracebacks."""

COMMANDS: Final = (
    "sink", "launch", "watch", "runs", "compare", "tail", "send", "ping", "verify", "replay", "export", "relay",
    "keygen", "completion",
)  # fmt: skip
"""Each is a module of this package with a function of the same name, or with `make_app` if its options depend on the
command line."""

COLLECT_AFTER: Final = 50_000
"""Allocations before Python looks for reference cycles: a batch makes thousands of objects, which form no cycles."""

FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk. Without a file's name they are those of standard output."""


def main() -> None:
    """Run the command line of this process and exit."""
    gc.set_threshold(COLLECT_AFTER)
    with tolerant_streams():
        code = run(sys.argv[1:])
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; an error is printed as one line on standard error."""
    is_verbose, tokens = take_verbose(arguments)
    try:
        with _logging_to_stderr():
            code = make_app(tokens)(tokens, print_error=False, exit_on_error=False, result_action="return_value")
        return code if isinstance(code, int) else ExitCode.OK
    except CycloptsError as error:
        help_command = " ".join(["trainwire", *(error.command_chain or ()), "--help"])
        return _fail(f"{_describe(error)} Try: {help_command}", ExitCode.USAGE, error if is_verbose else None)
    except TrainwireError as error:
        shown = error if is_verbose else error.__cause__ if isinstance(error, SinkBugError) else None
        return _fail(str(error), exit_code(error), shown)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.BROKEN_PIPE
    except SystemExit as error:
        # Printing the help to a closed pipe makes cyclopts exit with a code of its own.
        if isinstance(error.__context__, BrokenPipeError):
            return ExitCode.BROKEN_PIPE
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and error.errno in FULL:
            return report_lost_output(error)
        hint = "" if is_verbose else ". Please report it, with the output of `trainwire --verbose`"
        message = f"unexpected {type(error).__name__}: {error}{hint}"
        return _fail(message, ExitCode.INTERNAL, error if is_verbose else None)


def make_app(tokens: Sequence[str], *, with_every_option: bool = False) -> App:
    """Return the application for a command line; only the modules that `tokens` need are imported.

    With `with_every_option`, each sink has its own options, which requires importing all sinks.
    """
    app = App(name="trainwire", help=HELP, version=_version, version_flags=["--version"])
    names, rest = (tokens[:1], tokens[1:]) if tokens and tokens[0] in COMMANDS else (COMMANDS, [])
    for name in names:
        module = import_module(f"trainwire_sinks.cli.{name}")
        if name == "sink":
            app.command(module.make_app(rest, with_every_option=with_every_option))
        else:
            app.command(module.make_app(rest) if name == "replay" else getattr(module, name))
    return app


def take_verbose(arguments: Sequence[str]) -> tuple[bool, list[str]]:
    """Return whether `--verbose` is among the arguments, and the other arguments.

    The arguments of a launched script are not searched.
    """
    if "--" in arguments:
        end = arguments.index("--")
    else:
        end = arguments.index("launch") if "launch" in arguments else len(arguments)
    ours, scripts = arguments[:end], arguments[end:]
    return "--verbose" in ours, [token for token in ours if token != "--verbose"] + list(scripts)


def _version() -> str:
    from importlib.metadata import version

    return version("trainwire")


def _describe(error: CycloptsError) -> str:
    """Return what is wrong with a command line; positional arguments are named as in the help, not as options."""
    if isinstance(error, MissingArgumentError) and error.argument and not error.argument.tokens:
        name = error.argument.name.lstrip("-").upper()
        if name == "TARGET":
            return "TARGET is missing: give a run's folder, a connection file or an address."
        if error.argument.field_info.is_positional:
            return f"{name} is missing."
        return f"the option {error.argument.name} is missing."
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument {' '.join(map(repr, error.unused_tokens))}."
    return str(error)


def _fail(message: str, code: ExitCode, error: BaseException | None) -> ExitCode:
    """Print an error, with its traceback if `error` is given, and return its exit code."""
    with contextlib.suppress(OSError):  # standard error may be closed
        if error is not None:
            traceback.print_exception(error)
        print(f"trainwire: {one_line(message.strip())}", file=sys.stderr)
    return code


class _OneLineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"trainwire: {one_line(record.getMessage())}"


@contextlib.contextmanager
def _logging_to_stderr() -> Iterator[None]:
    logger = logging.getLogger("trainwire")
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLineFormatter())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
