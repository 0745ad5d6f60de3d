"""A package of a third party, as pip would install it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest


def install(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, source: str, group: str, entries: Mapping[str, str]
) -> None:
    """Make a package importable that has one module, `<name>_of_a_third_party`.

    Args:
        name: the package's name.
        source: the module's text.
        group: the group of its entry points.
        entries: its entry points: objects by name.
    """
    (folder / f"{name}_of_a_third_party.py").write_text(source)
    information = folder / f"{name}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{entry} = {target}" for entry, target in entries.items())]
    (information / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(folder)
