"""In which line of a TOML file something stands: `tomllib` does not tell."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from typing import Any


def line_of(text: str, keys: Sequence[str]) -> int:
    """The line, from 1, of the statement that first brings these keys in; 1 if none does.

    The text is read up to each line in turn. Where a statement takes several lines, nothing but the whole of it can be
    read, and it begins behind what could be read before.
    """
    first = 1
    for line, content in _readable_beginnings(text):
        if _holds(content, keys):
            return first
        first = line + 1
    return 1


def _readable_beginnings(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """How many lines can be read by themselves, and what they hold."""
    lines = text.split("\n")
    for count in range(1, len(lines) + 1):
        try:
            yield count, tomllib.loads("\n".join(lines[:count]) + "\n")
        except (tomllib.TOMLDecodeError, RecursionError):
            continue


def _holds(content: object, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return True
