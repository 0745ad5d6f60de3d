"""What a benchmark found, and the registry of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One figure beside its budget."""

    name: str
    measured: str
    """With its unit, and what it was compared with."""
    budget: str = ""
    is_met: bool | None = None
    """None where there is no budget, or where it could not be measured."""

    @property
    def verdict(self) -> str:
        """A word for the table."""
        return {True: "met", False: "NOT MET", None: ""}[self.is_met]


Benchmark = Callable[["Size"], Iterator[Result]]


@dataclass(frozen=True)
class Size:
    """How much is measured: everything, or what takes a moment and shows that the benchmarks work."""

    quick: bool

    def of(self, whole: int, quick: int) -> int:
        """One of two numbers."""
        return quick if self.quick else whole
