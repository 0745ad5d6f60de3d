from __future__ import annotations

import subprocess
import sys

import pytest

import trainwire_sinks


@pytest.mark.parametrize("name", trainwire_sinks.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    """Each name in `__all__` is importable from the package and listed by `dir`."""
    assert getattr(trainwire_sinks, name).__name__ == name or name == "State"
    assert name in dir(trainwire_sinks)


def test_an_unknown_name_raises_attribute_error() -> None:
    """A name that the package does not have raises the usual error."""
    with pytest.raises(AttributeError, match="has no attribute 'Sinks'"):
        trainwire_sinks.Sinks  # type: ignore[attr-defined]  # noqa: B018  # the attribute does not exist


def test_importing_the_package_imports_no_dependency() -> None:
    """`import trainwire_sinks` alone imports neither the protocol nor the runtime."""
    code = (
        "import sys; before = set(sys.modules); import trainwire_sinks;"
        "print(sorted({name for name in set(sys.modules) - before if 'trainwire' in name or 'aiofiles' in name}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "['trainwire_sinks']\n"
