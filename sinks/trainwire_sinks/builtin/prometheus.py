"""The latest values over HTTP, for Prometheus and Grafana.

The format is Prometheus' text exposition format (https://prometheus.io/docs/instrumenting/exposition_formats/), written
by prometheus-client. Every metric is a gauge: a training's values go up and down.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trainwire_protocol.errors import OptionError, OutputError
from trainwire_protocol.events import LAST_EVENTS, MAX_NAME_BYTES, Event
from trainwire_sinks.runtime.base import Sink, State
from trainwire_sinks.runtime.http_endpoint import HttpEndpoint

if TYPE_CHECKING:
    from prometheus_client.metrics_core import GaugeMetricFamily

PREFIX: Final = "trainwire_metric_"
"""What the families of a run's own metrics begin with; those of the run itself begin with `trainwire_` alone."""

STATES: Final = ("running", *sorted(name.removeprefix("run/") for name in LAST_EVENTS))

MAX_LINGER: Final = 50.0
"""Within what the runner gives a sink at the end."""

Key = tuple[str, str]
"""A series: the event's name, and for `scalars` the item's label or number."""

logger = logging.getLogger("trainwire")


@dataclass(frozen=True)
class Options:
    """What `--help` shows of them is in their docstrings."""

    host: str = "127.0.0.1"
    """The address to listen on. Who can reach it can read the values: nobody is asked for a password."""
    port: int = 9464
    """The port to listen on, 0 for any free one; rank r listens on the port r further on."""
    max_series: int = 1000
    """The number of series, with what is in `scalars` each counted; further ones are left out, counted and told."""
    linger: float = 30.0
    """Longest time to wait, when the run is over, until the last values were read, in seconds; if any ever were."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise OptionError(f"--port is a number from 0 to 65535, not {self.port}")
        if self.max_series < 1:
            raise OptionError(f"--max-series is a number, 1 or more, not {self.max_series}")
        if not 0 <= self.linger <= MAX_LINGER:
            raise OptionError(f"--linger is a number of seconds from 0 to {MAX_LINGER:g}, not {self.linger}")


class Prometheus(Sink):
    """Serves the latest values over HTTP, for Prometheus and Grafana.

    `train/loss` is `trainwire_metric_train_loss{name="train/loss", run="…", rank="0"}`; what two names have in common
    once they are made valid, their labels tell apart. What a resumed run has superseded is taken back.
    """

    name = "prometheus"
    packages = ("prometheus_client",)
    extra = "prometheus"
    options: Options = Options()
    output: Endpoint

    def make_output(self, folder: Path, rank: int) -> Endpoint:  # noqa: ARG002  # it writes no file
        """Where it listens."""
        port = self.options.port and self.options.port + rank
        return Endpoint(self.options.host, port, Values(rank, self.options.max_series))

    async def restore(self, state: State) -> None:
        """Take up the values."""
        self._values = self.output.values
        self._values.restore(state)

    def state(self) -> State:
        """The values."""
        return self._values.state()

    async def handle(self, events: Sequence[Event]) -> None:
        """Take the batch's values."""
        self._values.take(self.batch.header.run, events)

    async def settle(self) -> None:
        """Wait until the last values were read, if somebody has been reading."""
        await self.output.wait_for_reader(self.options.linger)


class Values:
    """The latest values of one rank, as prometheus-client collects them; the lock is for its threads."""

    def __init__(self, rank: int, max_series: int) -> None:
        self._rank, self._max_series = rank, max_series
        self._lock = threading.Lock()
        self.restore({})

    def restore(self, state: State) -> None:
        """Take up what `state` returned."""
        with self._lock:
            self._run: str = state.get("run", "")
            self._series: dict[Key, float] = {(name, item): value for name, item, value in state.get("series", ())}
            self._left_out: int = state.get("left_out", 0)
            self._facts: dict[str, float] = state.get("facts", {})
            self._state: str = state.get("state", STATES[0])

    def state(self) -> State:
        """All of it."""
        series = [[name, item, value] for (name, item), value in self._series.items()]
        return {
            "run": self._run, "series": series, "left_out": self._left_out, "facts": dict(self._facts),
            "state": self._state,
        }  # fmt: skip

    def take(self, run: str, events: Sequence[Event]) -> None:
        """Take the values of a batch's events."""
        with self._lock:
            self._run = run
            for event in events:
                self._take(event)

    def _take(self, event: Event) -> None:
        self._facts |= {"step": event.step, "last_event_timestamp_seconds": event.walltime}
        if event.type in ("scalar", "scalars"):
            for item, value in _items(event.value):
                self._set((event.name, item), float(value))
        elif event.type == "lifecycle":
            if event.name in LAST_EVENTS or event.name in ("run/started", "run/resumed"):
                self._state = event.name.removeprefix("run/") if event.name in LAST_EVENTS else STATES[0]
            epoch = event.value.get("epoch")
            if event.name.startswith("epoch/") and type(epoch) in (int, float):
                self._facts["epoch"] = epoch

    def _set(self, key: Key, value: float) -> None:
        # A label may be a megabyte long, and there may be a thousand.
        is_short = len(key[1].encode()) <= MAX_NAME_BYTES
        if key in self._series or (is_short and len(self._series) < self._max_series):
            self._series[key] = value
            return
        if not self._left_out:
            logger.warning(
                "prometheus: %.60r, %.60r is left out: there are more than %d series (--max-series), or its label has "
                "more than %d bytes", *key, self._max_series, MAX_NAME_BYTES,
            )  # fmt: skip
        self._left_out += 1

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families of all values; called by prometheus-client, in a thread of its own."""
        with self._lock:
            series, facts = dict(self._series), dict(self._facts)
            common, state, left_out = [self._run, str(self._rank)], self._state, self._left_out
        yield from _families_of_run(common, facts, state, left_out)
        families: dict[str, GaugeMetricFamily] = {}
        for (name, item), value in series.items():
            family = metric_name(name)
            if family not in families:
                families[family] = _family(family, "The latest value of the metric in its label name.", "name", "item")
            families[family].add_metric([*common, name, item], value)
        yield from families.values()


def metric_name(name: str) -> str:
    """The family that an event's name belongs to: with "_" for all that Prometheus does not allow."""
    return PREFIX + re.sub(r"[^a-zA-Z0-9_]", "_", name)


def _items(value: float | Mapping[str, float] | list[float] | tuple[float, ...]) -> Iterable[tuple[str, float]]:
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, (list, tuple)):
        return [(str(number), item) for number, item in enumerate(value)]
    return [("", value)]


def _families_of_run(
    common: list[str], facts: Mapping[str, float], state: str, left_out: int
) -> Iterator[GaugeMetricFamily]:
    for fact, value in facts.items():
        family = _family(f"trainwire_{fact}", f"Of the run's last event that says it: {fact.replace('_', ' ')}.")
        family.add_metric(common, value)
        yield family
    states = _family("trainwire_run_state", "1 for the state that the run is in.", "state")
    for each in STATES:
        states.add_metric([*common, each], each == state)
    yield states
    family = _family("trainwire_left_out", "Values that were left out, as there are too many series.")
    family.add_metric(common, left_out)
    yield family


def _family(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    from prometheus_client.metrics_core import GaugeMetricFamily

    return GaugeMetricFamily(name, documentation, labels=["run", "rank", *labels])


class Endpoint:
    """An output that is asked for: an HTTP server."""

    length = 0

    def __init__(self, host: str, port: int, values: Values) -> None:
        self.values = values
        self._host, self.port = host, port
        self._http: HttpEndpoint | None = None

    @property
    def url(self) -> str:
        """Where the values are to be had; empty if they are not."""
        return f"{self._http.url}metrics" if self._http else ""

    def exists(self) -> bool:
        """There is never anything."""
        return False

    async def open(self, length: int) -> None:  # noqa: ARG002  # there is no file
        """Begin to answer. Of values there are none yet.

        Raises:
            OutputError: the address is taken, or none of this host's.
        """
        from prometheus_client import CollectorRegistry, make_wsgi_app

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self.values)
        try:
            self._http = HttpEndpoint(self._host, self.port, make_wsgi_app(registry))
        except (OSError, OverflowError) as error:
            raise OutputError(
                f"prometheus cannot listen on {self._host}:{self.port} ({error}): choose another --port, 0 for any "
                "free one, or another --host"
            ) from error
        logger.info("prometheus: %s", self.url)

    @property
    def was_read(self) -> bool:
        """If somebody has read the values."""
        return self._http is not None and self._http.was_read

    async def wait_for_reader(self, seconds: float) -> None:
        """Wait until somebody has read what is served now, if anybody has been reading."""
        if self._http:
            await self._http.wait_for_reader(seconds)

    async def flush(self) -> None:
        """Nothing is held back."""

    async def close(self) -> None:
        """Stop answering."""
        http, self._http = self._http, None
        if http:
            http.close()
