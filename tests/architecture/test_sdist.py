"""The contents of a source distribution."""

from __future__ import annotations

import subprocess
import tomllib
from fnmatch import fnmatch

import pytest
from support.paths import ROOT

REPOSITORY_ONLY = {".ci", ".gitignore"}
"""Files that are useful only in the repository."""


def test_a_source_distribution_contains_the_repository() -> None:
    """It contains every top-level file and folder, so that its tests, benchmarks and containers can be run."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a git repository")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {line.partition("/")[0] for line in listed.splitlines()} - REPOSITORY_ONLY
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]
    # The build adds pyproject.toml by itself.
    patterns = [*settings["include"], "pyproject.toml"]
    assert not [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)]
