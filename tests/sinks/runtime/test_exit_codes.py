from __future__ import annotations

import inspect
import re

import pytest
from support.paths import DOCS

from trainwire_protocol import errors
from trainwire_sinks.runtime import exit_codes
from trainwire_sinks.runtime.exit_codes import ExitCode, exit_code

PAGE = DOCS / "command-line.md"

ERRORS = {
    name: value
    for module in (errors, exit_codes)
    for name, value in vars(module).items()
    if inspect.isclass(value) and issubclass(value, errors.TrainwireError)
}


def test_the_page_lists_every_code() -> None:
    """The page on the command line lists each exit code with its name, and no other."""
    rows = re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert {name: int(number) for number, name in rows} == {code.name: int(code) for code in ExitCode}


@pytest.mark.parametrize("name", sorted(ERRORS.keys() - {"TrainwireError"}))
def test_every_error_has_a_code(name: str) -> None:
    """No error that Trainwire raises on purpose has the exit code of a bug."""
    error = ERRORS[name].__new__(ERRORS[name])
    assert exit_code(error) is not ExitCode.INTERNAL
