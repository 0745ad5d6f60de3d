"""Notices names whose step goes back, at the cost of one comparison for all the names that a training logs together."""

from __future__ import annotations

from typing import Final

from trainwire_protocol.packing import ScalarPacker

MAX_NAMES: Final = 100_000
"""Names whose last step is remembered, and names in groups."""


class Group:
    """Names that are logged together."""

    __slots__ = ("names", "packer", "step")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.packer = ScalarPacker(names)
        self.step: int | None = None
        """The last one of the group, if the watch has not noted it for each name yet."""


class StepWatch:
    """Remembers the last step of each name."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}
        self._highest = -(2**63)
        """No name has a later step."""
        self._grouped_names = 0
        self._recent: list[Group] = []
        """Groups with a step that `_steps` does not know of."""

    def group(self, names: tuple[str, ...]) -> Group | None:
        """A group for `goes_on`, if there is room for one; each of its names has gone through `goes_back`."""
        if self._grouped_names + len(names) > MAX_NAMES:
            return None
        self._grouped_names += len(names)
        return Group(names)

    def goes_on(self, group: Group, step: int) -> bool:
        """Whether none of the names was at a later step; if so, they are at this one now."""
        if step >= self._highest:
            if group.step is None:
                self._recent.append(group)
            group.step = self._highest = step
            return True
        self._settle()
        if any(self._steps.get(name, step) > step for name in group.names):
            return False
        self._steps.update(dict.fromkeys(group.names, step))
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
        """Note the groups' steps for each name: they are later than what is noted, and only grow."""
        for group in sorted(self._recent, key=_step_of):
            self._steps.update(dict.fromkeys(group.names, _step_of(group)))
            group.step = None
        self._recent.clear()


def _step_of(group: Group) -> int:
    assert group.step is not None
    return group.step
