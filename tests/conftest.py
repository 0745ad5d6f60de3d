"""Settings of all tests: whatever started them, they run in one environment and leave no process behind."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from support.paths import TESTS

INHERITED = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "TZ", "LANG", "LC_ALL", "USER", "LOGNAME", "SHELL", "OMP_NUM_THREADS")
"""Variables that tests inherit as they are. What else is set may change what the product does, as RANK and SLURM_JOB_ID
do, or how it prints, as COLUMNS and NO_COLOR do."""

KEPT_PREFIXES = ("PYTEST_", "COV_", "COVERAGE_", "PYTHON", "OPENBLAS_", "VIRTUAL_ENV", "CI", "CUDA_", "CUT_SECONDS")
"""Variables of the tests' own tools, and of the machine's libraries."""

# No deadline: how long an example takes says more about a shared machine than about the code.
settings.register_profile("default", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=5000)
settings.load_profile("default")


def pytest_configure(config: pytest.Config) -> None:
    """Set what processes inherit: signals, umask, environment, descriptors and standard input."""
    default_signals()
    os.umask(0o022)
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if most == resource.RLIM_INFINITY else min(4096, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, wanted), most))
    home = TemporaryDirectory(prefix="trainwire-tests-")
    config.add_cleanup(home.cleanup)
    set_environment(Path(home.name))
    if config.getoption("capture") != "no":
        with Path(os.devnull).open() as nothing:
            os.dup2(nothing.fileno(), 0)


def default_signals() -> None:
    """Handle the signals of a terminal as a shell's foreground job does: `nohup` and `command &` ignore some."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGTSTP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def set_environment(home: Path) -> None:
    """Keep the variables listed above, and set those that the tests rely on; children find the tests' helpers."""
    for name in list(os.environ):
        if name not in INHERITED and not name.startswith(KEPT_PREFIXES):
            del os.environ[name]
    helpers = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {"HOME": str(home), "TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(helpers)}
    # On a loaded machine the journal may take long to write what a test reads after `close`.
    os.environ["TRAINWIRE_CLOSE_TIMEOUT"] = "30"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    """End the processes that a failed test has started, so that no later test meets them."""
    report = yield
    if call.when == "teardown" and item.stash.get(FAILED, False):
        for process in processes_of(item.nodeid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
    elif report.failed:
        item.stash[FAILED] = True
    return report


FAILED = pytest.StashKey[bool]()


def processes_of(test: str) -> Iterator[int]:
    """The processes, at any depth, that were started while a test itself ran: pytest names it in their environment."""
    mark = b"\0PYTEST_CURRENT_TEST=%s (call)\0" % test.encode()
    for folder in Path("/proc").glob("[0-9]*") if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):
            if mark in b"\0%s\0" % (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                yield int(folder.name)
