"""Importing a module has no side effects, and imports no package that is not needed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from support.packages import PACKAGES, modules, top_level

# Third-party packages are imported first: what they start does not count.
IMPORT_ALL = """
import importlib, json, sys

def import_all(names):
    missing = {}
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing[name] = str(error)
        except Exception as error:
            if type(error).__name__ != "MissingExtraError":
                raise
            missing[name] = str(error)
    return missing

def state():
    import asyncio, logging, multiprocessing, os, signal, threading, warnings
    return {
        "threads": [thread.name for thread in threading.enumerate()],
        "files": sorted(os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
                        if os.path.lexists(f"/proc/self/fd/{number}")),
        "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
        "children": len(multiprocessing.active_children()),
        "environment": dict(os.environ),
        "loggers": [(name, str(getattr(logger, "handlers", []))) for name, logger in
                    sorted({"": logging.getLogger(), **logging.Logger.manager.loggerDict}.items())
                    if getattr(logger, "handlers", [])],
        "warnings": str(warnings.filters),
        "policy": str(type(asyncio.get_event_loop_policy())),
        "folder": os.getcwd(),
    }

third_party, ours = json.loads(sys.argv[1])
import_all(third_party)
state()
before = state()
missing = import_all(ours)
print(json.dumps({"before": before, "after": state(), "missing": missing}))
"""
OPTIONAL = (
    "torch", "torchmetrics", "torchdata", "numpy", "rich", "textual", "plotext", "tensorboard", "google_crc32c",
    "sklearn", "apprise", "prometheus_client", "pyarrow", "psutil", "pynvml", "nats", "PIL", "aiohttp", "uvicorn",
    "flair", "lightning", "huggingface", "accelerate", "ignite", "keras", "structlog", "loguru",
)  # fmt: skip


def run_program(program: str, *arguments: str) -> Any:
    """Run a program in a new process, and return what its last line of output holds as JSON."""
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", program, *arguments]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout.splitlines()[-1])


@pytest.mark.timeout(240)  # it imports torch and every optional package
def test_importing_all_modules_has_no_side_effects() -> None:
    """Importing all modules changes no threads, open files, signal handlers, loggers or environment variables."""
    ours = [module.name for module in modules()]
    third_party = sorted(top_level(set().union(*(module.imports() for module in modules()))) - set(PACKAGES))
    found = run_program(IMPORT_ALL, json.dumps([third_party, ours]))
    assert found["after"] == found["before"]
    wrong = {name: error for name, error in found["missing"].items() if not any(extra in error for extra in OPTIONAL)}
    assert not wrong


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("trainwire", ["torch", "numpy", "rich", "tensorboard", "trainwire_sinks"]),
        ("trainwire_protocol.subscription.subscription", ["torch", "numpy", "tensorboard", "hypothesis"]),
        ("trainwire_protocol.journal.segments", ["zmq"]),
        ("trainwire_sinks.cli.app", ["torch", "numpy", "tensorboard", "trainwire"]),
        ("trainwire_sinks.builtin.loss_file", ["torch", "numpy", "tensorboard", "rich", "trainwire"]),
    ],
)
def test_a_module_imports_only_what_it_needs(module: str, unwanted: list[str]) -> None:
    """Small modules import no large packages, so that they load quickly and work without extras."""
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    assert not set(run_program(program)) & set(unwanted)
