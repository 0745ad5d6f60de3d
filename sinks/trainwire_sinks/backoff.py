"""How long to wait before something is tried again."""

from __future__ import annotations


def backoff_delay(failures: int, first: float, longest: float) -> float:
    """Seconds to wait after so many failures, from 1 on: `first`, then twice as long each time, `longest` at most."""
    return float(min(longest, first * 2 ** min(failures - 1, 30)))
