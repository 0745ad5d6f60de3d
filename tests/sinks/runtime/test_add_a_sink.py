"""Runs the files and commands of docs/add-a-sink.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.paths import DOCS

from trainwire_sinks.testing.check_sink import sample_run

PAGE = DOCS / "add-a-sink.md"
FILES = dict(re.findall(r"```python file=(\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL))
COMMANDS = [
    tuple(command.split("\n", 1))
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for command in block.split("$ ")[1:]
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the page's files."""
    folder = tmp_path_factory.mktemp("page")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def test_the_page_has_files_and_commands() -> None:
    """All files and commands of the page are found."""
    assert sorted(FILES) == ["epoch_times.py", "loss_drop.py", "test_epoch_times.py", "test_loss_drop.py"]
    assert len(COMMANDS) == 5


def matches(expected: str, output: str) -> bool:
    """Return whether the output is as expected; "..." matches anything, and spaces and frames are ignored."""
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", output).split())
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in expected.split("..."))
    return re.fullmatch(pattern.replace(r"\ .*", ".*").replace(r".*\ ", ".*"), words) is not None


@pytest.mark.timeout(240)  # one of the commands kills a sink at many points
def test_the_commands_do_what_the_page_says(place: Path, write_run: Callable[..., Path]) -> None:
    """Each command of the page, in their order, exits with 0 and prints what the page shows."""
    shutil.copytree(write_run(sample_run()), place / "runs" / "digits")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command, expected in COMMANDS:
        result = subprocess.run(
            command, shell=True, cwd=place, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert (result.returncode, result.stderr) == (0, ""), command
        assert matches(expected, result.stdout), result.stdout
