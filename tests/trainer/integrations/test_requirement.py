"""An integration says in one line what it needs."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from trainwire.integrations.requirement import require
from trainwire_protocol.errors import MissingExtraError


def install(folder: Path, version: str) -> None:
    """Make a package of this version known to Python, as pip does."""
    info = folder / f"flair-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: flair\nVersion: {version}\n")


def test_a_framework_that_is_not_installed() -> None:
    """The import of the integration fails with the framework's version and the extra that installs it."""
    with pytest.raises(MissingExtraError) as raised:
        importlib.import_module("trainwire.integrations.flair")
    assert str(raised.value) == "trainwire.integrations.flair needs flair 0.15 or later: pip install 'trainwire[flair]'"


OTHERS = {
    "loguru": "loguru 0.7",
    "structlog": "structlog 24",
    "keras": "keras 3.5",
    "ignite": "pytorch-ignite 0.5",
    "accelerate": "accelerate 1.15",
    "huggingface": "transformers 5",
    "lightning": "lightning 2.6",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_frameworks_that_are_not_installed(name: str) -> None:
    """Each of them names its version and its extra."""
    with pytest.raises(MissingExtraError) as raised:
        importlib.import_module(f"trainwire.integrations.{name}")
    needs = f"trainwire.integrations.{name} needs {OTHERS[name]} or later"
    assert str(raised.value) == f"{needs}: pip install 'trainwire[{name}]'"


def test_a_framework_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the version that is installed too."""
    install(tmp_path, "0.12.2")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtraError) as raised:
        importlib.import_module("trainwire.integrations.flair")
    assert str(raised.value) == (
        "trainwire.integrations.flair needs flair 0.15 or later, and 0.12.2 is installed: "
        "pip install 'trainwire[flair]'"
    )


@pytest.mark.parametrize("version", ["0.15", "0.15.0rc1", "0.15.1", "1", "0.100"])
def test_a_framework_that_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Versions are compared by their numbers."""
    install(tmp_path, version)
    monkeypatch.syspath_prepend(str(tmp_path))
    require("flair", "0.15", extra="flair")
