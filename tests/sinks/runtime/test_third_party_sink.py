"""Installs the package in examples/third_party_sink as a user would, and uses its sink by name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.paths import ROOT

from trainwire_sinks import Event
from trainwire_sinks.testing.check_sink import record, sample_run

PACKAGE = ROOT / "examples" / "third_party_sink"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs a Python module where the package is installed, in a folder of its own."""
    folder = tmp_path_factory.mktemp("third-party")
    # Building leaves files behind, so the sources are copied out of the checkout.
    shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))

    environment = os.environ | {"PYTHONPATH": str(folder / "site")}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *map(str, arguments)]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    installed = run("pip", "install", *options, "--target", folder / "site", folder / "source")
    assert installed.returncode == 0, installed.stderr
    return run


def test_the_page_shows_the_package() -> None:
    """The files that the page shows are those of the package."""
    page = (ROOT / "docs" / "add-a-sink.md").read_text()
    shown = dict(re.findall(r"```\w+ file=(\S+)\n(.*?)```", page, re.DOTALL))
    for name in ("epoch_times.py", "test_epoch_times.py", "pyproject.toml"):
        assert (PACKAGE / name).read_text() == shown[name]


def test_it_is_listed_with_its_options(run: Run) -> None:
    """Once installed, the sink is listed, and its help shows its options."""
    assert (
        "\nepoch-times   Writes epoch-times.txt: how long each epoch took.\n"
        in run("trainwire_sinks", "sink", "--list").stdout
    )
    help_text = run("trainwire_sinks", "sink", "epoch-times", "--help").stdout
    assert "Writes epoch-times.txt" in help_text
    assert "--minimum" in help_text


def test_it_runs(run: Run, write_run: Callable[..., Path]) -> None:
    """The sink runs under its name, and events with unexpected fields do not stop it."""
    odd: list[object] = [{}, {"epoch": "x", "seconds": 1.0}, {"epoch": 9, "seconds": "x"}, {"epoch": 4, "seconds": 2.0}]
    events = [Event("epoch/finished", value, "lifecycle", 0.0, 0) for value in odd]
    folder = write_run(record([[Event("epoch/finished", 1.0, "scalar", 0.0, 0), *events]], run="odd"))
    result = run("trainwire_sinks", "sink", "epoch-times", folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert (folder / "epoch-times.txt").read_text() == "epoch 4: 2.0 s\n"


def test_replay_takes_it(run: Run, write_run: Callable[..., Path]) -> None:
    """`replay` runs the sink with its options."""
    folder = write_run(sample_run())
    result = run("trainwire_sinks", "replay", folder, "--to", "epoch-times", "--minimum", "9")
    assert (result.returncode, (folder / "replay" / "epoch-times.txt").read_text()) == (0, "")
