"""In which line of a TOML file something stands: `tomllib` does not tell."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any, Final

MAX_LINES: Final = 200
"""Lines of one statement; of a longer one the line may be wrong."""


def line_of(text: str, keys: Sequence[str]) -> int:
    """The line, from 1, of the statement that first brings these keys in; 1 if none does.

    The longest beginning of the text is searched for that can be read by itself and does not hold them yet. A statement
    of several lines can only be read whole.
    """
    lines = text.split("\n")
    low, high = 0, len(lines) if _holds(_read(lines, len(lines)), keys) else 0
    while high - low > 1:
        middle = (low + high) // 2
        count = next((each for each in range(middle, min(high, middle + MAX_LINES)) if _read(lines, each)), None)
        if count is None or _holds(_read(lines, count), keys):
            high = middle if count is None else count
        else:
            low = count
    return low + 1


def _read(lines: Sequence[str], count: int) -> list[dict[str, Any]]:
    """What so many lines hold; empty if they cannot be read by themselves."""
    try:
        return [tomllib.loads("\n".join(lines[:count]) + "\n")]
    except (ValueError, RecursionError):
        return []


def _holds(read: Sequence[object], keys: Sequence[str]) -> bool:
    """Whether a text that can be read has a value for these keys."""
    content = read[0] if read else None
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return content is not None
