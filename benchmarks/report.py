"""The table of results, and its place in a document."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.result import Result


def table(results: Sequence[Result]) -> str:
    """The results in Markdown."""
    rows = [f"| {result.name} | {result.measured} | {result.budget} | {result.verdict} |" for result in results]
    return "\n".join(["| what | measured | budget | |", "|---|---|---|---|", *rows])


def describe_machine() -> str:
    """What the results hold for, in a sentence."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "pyzmq", "msgpack"))
    cores = len(os.sched_getaffinity(0))
    return f"Measured on {cores} cores of {_processor()}, Linux, Python {platform.python_version()}, {packages}."


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1] if found else platform.machine()


def write_section(path: Path, name: str, content: str) -> None:
    """Put content between the marks `<!-- begin name -->` and `<!-- end name -->` of a document.

    Raises:
        ValueError: the document has no such marks.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path} has no marks {begin} and {end}")
    path.write_text(f"{before}{begin}\n{content}\n{end}{after}")
