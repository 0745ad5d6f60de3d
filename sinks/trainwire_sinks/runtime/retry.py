"""Policies for retrying an operation that failed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Delays that double from one attempt to the next."""

    first_delay: float = 1.0
    """Seconds before the second attempt; the delay doubles with each further attempt."""
    longest_delay: float = 60.0
    """Maximum delay, in seconds."""

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after this many failures, 1 or more."""
        return float(min(self.longest_delay, self.first_delay * 2 ** min(failures - 1, 30)))


@dataclass(frozen=True)
class RetryPolicy(Backoff):
    """The policy for running a sink again from its last commit after it has raised."""

    first_delay: float = 0.5
    longest_delay: float = 30.0
    retries: int = 5
    """Number of retries without progress after which the runner gives up."""


@dataclass(frozen=True)
class SendPolicy(Backoff):
    """The policy for sending a message again, which continues until the message is delivered, across restarts."""

    timeout: float = 30.0
    """Maximum duration of one attempt, in seconds."""
