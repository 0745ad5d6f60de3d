"""How long a reader waits for something to be heard."""

from __future__ import annotations

import logging
import time
from typing import Final

from trainwire_protocol.errors import IncompleteError

WORD_SECONDS: Final = 60.0
"""How often a reader that waits says so."""

_log = logging.getLogger("trainwire")


class Patience:
    """Waits for something to be heard: says so now and then, and gives up in the end."""

    def __init__(self, what: str, give_up: float | None) -> None:
        self._what = what
        self._give_up = give_up
        self._last_word: float | None = None
        self.reason = ""
        """Why nothing is heard, if somebody knows."""
        self.reward()

    def reward(self) -> None:
        """Something was heard."""
        self._last_heard = time.monotonic()
        self._last_word = None
        self.see_sign()

    def see_sign(self) -> None:
        """Something shows that there is somebody, though nothing is heard."""
        self._last_sign = time.monotonic()
        self.silence = 0.0
        """Seconds without any sign, as of the last wait."""

    def wait(self, why: str, *, at_once: bool = False) -> None:
        """Nothing was heard; `at_once` says so without waiting a minute.

        Raises:
            IncompleteError: it has been so for too long.
        """
        why += f" ({self.reason})" if self.reason else ""
        now = time.monotonic()
        self.silence = now - self._last_sign
        is_over = self._give_up is not None and now - self._last_heard > self._give_up
        since = self._last_word if self._last_word is not None else self._last_heard
        if (at_once and self._last_word is None) or (now - since > WORD_SECONDS and not is_over):
            self._last_word = now
            _log.warning("%s: %s; waiting (--give-up SECONDS ends this)", self._what, why)
        if is_over:
            raise IncompleteError(f"{self._what}: {why}; gave up after {self._give_up:g} s")
