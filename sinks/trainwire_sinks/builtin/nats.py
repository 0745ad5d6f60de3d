"""Publishes batches to a distributed log, NATS JetStream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainwire_protocol.errors import OptionError
from trainwire_protocol.events import CHANNELS, Event
from trainwire_sinks.nats.address import STREAM, check_stream, parse_servers
from trainwire_sinks.nats.stream_output import StreamOutput
from trainwire_sinks.runtime.sink import PublisherStatus, Sink, State


@dataclass(frozen=True)
class Options:
    """The options of the sink; the docstrings are their help."""

    server: str = "nats://127.0.0.1:4222"
    """The servers, separated by commas: nats://a:4222,b:4222."""
    stream: str = STREAM
    """The stream, which is created if it does not exist."""
    replicas: int = 1
    """Number of servers that store a newly created stream: 3 in a cluster of three."""

    def __post_init__(self) -> None:
        parse_servers(self.server)
        check_stream(self.stream)
        if not 1 <= self.replicas <= 5:
            raise OptionError(f"--replicas must be a number from 1 to 5, not {self.replicas}")


class Nats(Sink):
    """Publishes batches to NATS JetStream unchanged: nats://server/run is then a TARGET for every sink.

    Each batch is stored once, in the order recorded. While no server can be reached, the sink waits.
    """

    name = "nats"
    channels = frozenset(CHANNELS)
    keeps_superseded = True
    packages = ("nats",)
    extra = "nats"
    tick_interval = 5.0
    waits_for_output = True
    options: Options = Options()
    output: StreamOutput

    def make_output(self, folder: Path, rank: int) -> StreamOutput:  # noqa: ARG002  # it writes no file
        """Return the stream."""
        self._rank = rank
        return StreamOutput(parse_servers(self.options.server), self.options.stream, self.options.replicas)

    async def restore(self, state: State) -> None:
        """Resume with the current attempt."""
        self._run: str | None = state.get("run")
        self._attempt = int(state.get("attempt", 0))

    def state(self) -> State:
        """Return the current attempt, whose end may still have to be reported."""
        return {"run": self._run, "attempt": self._attempt}

    async def handle(self, events: Sequence[Event]) -> None:  # noqa: ARG002  # batches are stored unchanged
        """Store the batch."""
        await self.output.publish(self.batch)
        self._run, self._attempt = self.batch.header.run, self.batch.header.attempt

    async def tick(self, status: PublisherStatus) -> bool:
        """Report to readers that the training is alive or over, because a stream has no heartbeats."""
        if self._run and (status.is_over or status.silence < self.tick_interval):
            await self.output.publish_status(
                self._run, self._rank, self._attempt, renewed=status.now, over=status.is_over
            )
        return False
