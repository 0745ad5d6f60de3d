"""Importing a module starts nothing, and pulls in nothing that is not needed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from support.packages import PACKAGES, modules, top_level

# Packages of others come first: what they start is their own affair.
IMPORT_ALL = """
import importlib, json, sys

def attempt(names):
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

theirs, ours = json.loads(sys.argv[1])
attempt(theirs)
state()
before = state()
missing = attempt(ours)
print(json.dumps({"before": before, "after": state(), "missing": missing}))
"""
OPTIONAL = (
    "torch", "torchmetrics", "torchdata", "numpy", "rich", "textual", "plotext", "tensorboard", "google_crc32c",
    "sklearn", "apprise", "prometheus_client", "pyarrow", "psutil", "pynvml", "nats", "PIL", "aiohttp", "uvicorn",
)  # fmt: skip


def in_a_process(program: str, *arguments: str) -> Any:
    """What a program prints as JSON."""
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", program, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_importing_every_module_starts_nothing() -> None:
    """Importing all modules leaves threads, open files, signal handlers, loggers and environment as they were."""
    ours = [module.name for module in modules()]
    theirs = sorted(top_level(set().union(*(module.imports() for module in modules()))) - set(PACKAGES))
    found = in_a_process(IMPORT_ALL, json.dumps([theirs, ours]))
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
def test_a_module_pulls_in_only_what_it_needs(module: str, unwanted: list[str]) -> None:
    """Importing what is small imports nothing that is large, so that it starts in a blink and runs without extras."""
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    assert not set(in_a_process(program)) & set(unwanted)
