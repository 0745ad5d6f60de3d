"""Notices names whose step goes back, at the cost of one look for all the names that a training logs together."""

from __future__ import annotations

from typing import Final

MAX_NAMES: Final = 100_000
"""Names whose last step is remembered."""


class StepWatch:
    """Remembers the last step of each name."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}
        self._highest = -(2**63)
        """No name has a later step."""
        self._groups: set[tuple[str, ...]] = set()
        self._grouped_names = 0
        self._recent: dict[tuple[str, ...], int] = {}
        """Steps of groups that `_steps` does not know of yet."""

    def know(self, names: tuple[str, ...]) -> bool:
        """Let `goes_on` take these names together, if there is room; each has gone through `goes_back`."""
        if names not in self._groups and self._grouped_names + len(names) <= MAX_NAMES:
            self._groups.add(names)
            self._grouped_names += len(names)
        return names in self._groups

    def goes_on(self, names: tuple[str, ...], step: int) -> bool:
        """Whether these names are known together, and none was at a later step; if so, they are at this one now."""
        if names not in self._groups:
            return False
        if step >= self._highest:
            self._recent[names] = self._highest = step
            return True
        self._settle()
        if any(self._steps.get(name, step) > step for name in names):
            return False
        self._steps.update(dict.fromkeys(names, step))
        return True

    def goes_back(self, name: str, step: int) -> bool:
        """Whether a name was at a later step before; in any case it is at this one now."""
        self._settle()
        goes_back = step < self._steps.get(name, step)
        if name in self._steps or len(self._steps) < MAX_NAMES:
            self._steps[name] = step
        self._highest = max(self._highest, step)
        return goes_back

    def _settle(self) -> None:
        """Tell `_steps` of the groups: their steps are later than what it holds, and only grow from one to the next."""
        for names, step in sorted(self._recent.items(), key=lambda item: item[1]):
            self._steps.update(dict.fromkeys(names, step))
        self._recent.clear()
