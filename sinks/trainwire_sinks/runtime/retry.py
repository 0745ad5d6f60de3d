"""How an operation that failed is tried again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Delays that double from one attempt to the next."""

    first_delay: float = 1.0
    """Seconds before the second attempt; each further one waits twice as long as the one before."""
    longest_delay: float = 60.0
    """Seconds that no delay exceeds."""

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after this many failures, 1 or more."""
        return float(min(self.longest_delay, self.first_delay * 2 ** min(failures - 1, 30)))


@dataclass(frozen=True)
class RetryPolicy(Backoff):
    """How a sink that raises is run again from its last commit."""

    first_delay: float = 0.5
    longest_delay: float = 30.0
    retries: int = 5
    """Failures without progress in between after which the runner gives up."""


@dataclass(frozen=True)
class SendPolicy(Backoff):
    """How a message is sent again: until it is delivered, also after the sink is started again."""

    timeout: float = 30.0
    """Seconds that one attempt may take."""
