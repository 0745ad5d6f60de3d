"""Files, functions and folders do not exceed their maximum size."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from support.packages import Module, modules

MAX_FILE_LINES = 700
MAX_FUNCTION_LINES = 60
MAX_MODULES = 20

ONE_FILE_EACH = {"cli", "plugins", "builtin", "rules", "notifiers"}
"""Folders with a file for each command, plugin, sink, rule or notifier."""


def functions(module: Module) -> Iterator[tuple[str, int]]:
    """Yield the location and the number of lines of each function, without its docstring."""
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno
            lines = node.end_lineno - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None and first.end_lineno:
                lines -= first.end_lineno - first.lineno + 1
            yield f"{module.path}:{node.lineno} {node.name}", lines


def test_no_file_is_too_long() -> None:
    """No file of the packages has more than 700 lines."""
    lengths = {module.path: len(module.path.read_text().splitlines()) for module in modules()}
    assert not {path: length for path, length in lengths.items() if length > MAX_FILE_LINES}


def test_no_function_is_too_long() -> None:
    """No function of the packages has more than 60 lines, not counting its docstring."""
    lengths = dict(found for module in modules() for found in functions(module))
    assert not {location: length for location, length in lengths.items() if length > MAX_FUNCTION_LINES}


def test_no_folder_holds_too_many_modules() -> None:
    """No folder has more than 20 modules, except those that hold one file for each thing of a kind."""
    counts = Counter(module.path.parent for module in modules() if module.path.name != "__init__.py")
    assert not {path: count for path, count in counts.items() if count > MAX_MODULES and path.name not in ONE_FILE_EACH}
