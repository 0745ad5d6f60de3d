"""The results of the benchmarks, and the table of them in a document."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """A measured figure, and its budget if it has one."""

    name: str
    measured: str
    """With its unit, and what it was compared with."""
    budget: str = ""
    is_met: bool | None = None
    """None if there is no budget, or it could not be measured."""

    @property
    def verdict(self) -> str:
        """The last column of the table."""
        return {True: "met", False: "NOT MET", None: ""}[self.is_met]


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table."""
    rows = [f"| {result.name} | {result.measured} | {result.budget} | {result.verdict} |" for result in results]
    return "\n".join(["| what | measured | budget | |", "|---|---|---|---|", *rows])


def describe_machine() -> str:
    """Return a sentence that names the processor, the system and the versions."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "pyzmq", "msgpack"))
    cores = len(os.sched_getaffinity(0))
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    processor = model[1] if model else platform.machine()
    return f"Measured on {cores} cores of {processor}, Linux, Python {platform.python_version()}, {packages}."


def write_section(path: Path, name: str, content: str) -> None:
    """Replace what is between `<!-- begin name -->` and `<!-- end name -->` in a document.

    Raises:
        ValueError: if the document lacks these marks.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path} does not contain {begin} and {end}")
    path.write_text(f"{before}{begin}\n{content}\n{end}{after}")
