"""The tree of exceptions."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
from collections.abc import Iterator

import pytest
from support.packages import Module, modules

from trainwire_protocol import errors

CLASSES = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
BUILT_IN = {
    name for name, value in vars(builtins).items() if inspect.isclass(value) and issubclass(value, BaseException)
}


def drawn_tree() -> Iterator[tuple[str, str | None]]:
    """The classes in the docstring's drawing, each with the class it is drawn below."""
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if drawn := re.match(r"((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)(?:  |$)", line):
            above[len(drawn[1]) // 4 :] = [drawn[2]]
            yield drawn[2], above[-2] if len(above) > 1 else None


def exceptions_in(module: Module) -> Iterator[str]:
    """The exceptions that a module defines, except private ones."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            bases = {base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in node.bases}
            if bases & (BUILT_IN | CLASSES.keys()) or any(base.endswith(("Error", "Exception")) for base in bases):
                yield node.name


def test_the_drawing_is_the_tree() -> None:
    """The docstring draws every exception once, below its base class."""
    drawn = [(name, above) for name, above in drawn_tree() if name not in BUILT_IN]
    assert sorted(drawn, key=str) == sorted(
        ((name, None if kind is errors.TrainwireError else kind.__base__.__name__) for name, kind in CLASSES.items()),
        key=str,
    )


@pytest.mark.parametrize("module", list(modules()), ids=lambda module: module.name)
def test_exceptions_are_defined_in_one_module(module: Module) -> None:
    """No other module defines an exception, except private ones; so no two have one name."""
    found = list(exceptions_in(module))
    assert len(found) == len(set(found))
    assert sorted(found) == (sorted(CLASSES) if module.name == errors.__name__ else [])
