"""Which of a hook's calls a listener wants: every hundredth, the fifth, or those of one split."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from trainwire.training.hooks.payloads import HOOKS
from trainwire_protocol.errors import OptionError

_COUNTS = ("step", "number", "epoch")


class Filter(NamedTuple):
    """What a listener wants of its hook; what is None does not matter.

    Counted is what the payload counts, so that a resumed training calls as one that never stopped: `step`, or else
    `number`, the batch's in its epoch, or else `epoch`.
    """

    every: int | None = None
    """Calls whose count is a multiple of this."""
    once: int | None = None
    """The call with this count."""
    split: str | None = None
    """Calls for this split."""

    def apply(self, name: str, where: str, listener: Callable[[Any], object]) -> Callable[[Any], object]:
        """A listener at the hook `name` that is called only when it is wanted.

        Raises:
            OptionError: the hook counts nothing, or is not about a split; `where` says whose it is.
        """
        if self == Filter():
            return listener
        count = self._checked_count(name, where)
        every, once, split = self

        @functools.wraps(listener)
        def filtered(payload: Any) -> None:
            number = getattr(payload, count)
            is_counted = (every is None or number % every == 0) and once in (None, number)
            if is_counted and (split is None or payload.split == split):
                listener(payload)

        return filtered

    def _checked_count(self, name: str, where: str) -> str:
        fields = {field.name for field in dataclasses.fields(HOOKS[name])}
        for option, value in (("every", self.every), ("once", self.once)):
            if value is not None and (type(value) is not int or value < 1):
                raise OptionError(f"{where}: {option} is {value!r}: it has to be a whole number of at least 1")
        if self.split is not None and "split" not in fields:
            raise OptionError(f"{where}: split={self.split!r} is for hooks of an evaluation, not for {name!r}")
        count = next((field for field in _COUNTS if field in fields), None)
        if count is None:
            raise OptionError(f"{where}: {name!r} comes once: leave every= and once= out")
        return count
