"""What a source distribution holds."""

from __future__ import annotations

import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

OURS = {".ci", ".gitignore"}
"""Of no use but in the repository."""


def test_a_source_distribution_has_all_that_is_kept_in_the_repository() -> None:
    """Whoever unpacks one can run its tests, benchmarks and containers."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no repository")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {line.partition("/")[0] for line in listed.splitlines()} - OURS
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]
    # The build adds pyproject.toml by itself.
    patterns = [*settings["include"], "pyproject.toml"]
    assert not [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)]
