"""The `trainwire` command: one module for each subcommand."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Final

from cyclopts import App, CycloptsError, MissingArgumentError

from trainwire_protocol.errors import TrainwireError
from trainwire_sinks.cli.streams import forgiving_streams
from trainwire_sinks.runtime.exit_codes import ExitCode, exit_code
from trainwire_sinks.text.format import one_line

HELP = """Watch a training from outside: run sinks that write what it publishes.

TARGET, in any command, is a run's folder, a connection file or an address.
With --verbose an error shows its traceback."""


COMMANDS = (
    "sink", "launch", "watch", "runs", "compare", "tail", "send", "ping", "verify", "replay", "export", "relay",
    "keygen", "completion",
)  # fmt: skip
"""Each is a module here, and the function of this name in it; `sink` and `replay` are made for what they are given."""


COLLECT_AFTER: Final = 50_000
"""Objects made before Python looks for cycles: a batch makes thousands, which live for a moment and are in none."""


def main() -> None:
    """Run the command line of this process and exit."""
    gc.set_threshold(COLLECT_AFTER)
    with forgiving_streams():
        code = run(sys.argv[1:])
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; an error is one line on standard error."""
    is_verbose, tokens = take_verbose(arguments)
    with _logging_to_stderr():
        return _run(tokens, is_verbose)


def _run(tokens: list[str], is_verbose: bool) -> int:
    try:
        code = make_app(tokens)(tokens, print_error=False, exit_on_error=False, result_action="return_value")
        return code if isinstance(code, int) else ExitCode.OK
    except CycloptsError as error:
        return _fail(f"{_told(error)} Try: {_help_for(error)}", ExitCode.USAGE, error if is_verbose else None)
    except TrainwireError as error:
        return _fail(str(error), exit_code(error), error if is_verbose else None)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.BROKEN_PIPE
    except SystemExit as error:
        # What prints the help ends the process by itself where nobody reads any more, with another code.
        if isinstance(error.__context__, BrokenPipeError):
            return ExitCode.BROKEN_PIPE
        raise
    except Exception as error:
        told = f"unexpected {type(error).__name__}: {error}"
        hint = "" if is_verbose else ". Please report it, with what `trainwire --verbose` shows"
        return _fail(told + hint, ExitCode.INTERNAL, error if is_verbose else None)


def make_app(tokens: Sequence[str], *, with_every_option: bool = False) -> App:
    """The command line, with what `tokens` need of it: only what is asked for is imported, so that it starts at once.

    `with_every_option` gives each sink its options, for who wants to know them all.
    """
    app = App(name="trainwire", help=HELP, version=_version, version_flags=["--version"])
    command, rest = (tokens[:1], tokens[1:]) if tokens and tokens[0] in COMMANDS else (COMMANDS, [])
    for name in command:
        module = import_module(f"{__name__}.{name}")
        if name == "sink":
            app.command(module.make_app(rest, with_every_option=with_every_option))
        else:
            app.command(module.make_app(rest) if name == "replay" else getattr(module, name))
    return app


def take_verbose(arguments: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether `--verbose` is among the arguments, and the others; a launched script keeps its own."""
    before_script = next((place for place, token in enumerate(arguments) if token in ("--", "launch")), len(arguments))
    if "--" in arguments:
        before_script = arguments.index("--")
    ours, scripts = arguments[:before_script], arguments[before_script:]
    return "--verbose" in ours, [token for token in ours if token != "--verbose"] + list(scripts)


def _told(error: CycloptsError) -> str:
    """What was wrong; what stands without a name is not told as if it had to have one."""
    if isinstance(error, MissingArgumentError) and error.argument and error.argument.name == "--target":
        return "TARGET is missing: a run's folder, a connection file or an address."
    return str(error)


def _help_for(error: CycloptsError) -> str:
    """The command line that shows what could have been typed instead."""
    return " ".join(["trainwire", *(error.command_chain or ()), "--help"])


def _version() -> str:
    from importlib.metadata import version

    return version("trainwire")


@contextlib.contextmanager
def _logging_to_stderr() -> Iterator[None]:
    logger = logging.getLogger("trainwire")
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"trainwire: {one_line(record.getMessage())}"


def _fail(message: str, code: ExitCode, error: BaseException | None) -> ExitCode:
    if error is not None:
        traceback.print_exception(error)
    # Who reads standard error may be gone.
    with contextlib.suppress(OSError):
        print(f"trainwire: {one_line(message.strip())}", file=sys.stderr)
    return code
