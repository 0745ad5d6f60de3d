"""Serves the latest values over HTTP, for Prometheus and Grafana.

The format is the text exposition format (https://prometheus.io/docs/instrumenting/exposition_formats/), as written by
prometheus-client. Every metric is a gauge, because the values of a training go up and down.
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
from trainwire_sinks.runtime.http_endpoint import HttpEndpoint
from trainwire_sinks.runtime.output import NoOutput
from trainwire_sinks.runtime.sink import Sink, State

if TYPE_CHECKING:
    from prometheus_client.metrics_core import GaugeMetricFamily

PREFIX: Final = "trainwire_metric_"
"""Prefix of the families of metrics that the run logs; those about the run itself start with `trainwire_` alone."""

STATES: Final = ("running", *sorted(name.removeprefix("run/") for name in LAST_EVENTS))

MAX_LINGER: Final = 50.0
"""Longest `--linger`, in seconds; less than the runner's limit for `settle`."""

Key = tuple[str, str]
"""A series: the name of the event, and for `scalars` the label or index of the item."""

logger = logging.getLogger("trainwire")


@dataclass(frozen=True)
class Options:
    """The options of the sink; the docstrings are their help."""

    host: str = "127.0.0.1"
    """The address to listen on. Everybody who can reach it can read the values: there is no password."""
    port: int = 9464
    """The port to listen on, 0 for any free one; rank r adds r to it."""
    max_series: int = 1000
    """Maximum number of series; each item of `scalars` is one. Further ones are omitted, counted and reported."""
    linger: float = 30.0
    """Longest time to wait at the end for clients to read the last values, in seconds; without clients, none."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise OptionError(f"--port must be a number from 0 to 65535, not {self.port}")
        if self.max_series < 1:
            raise OptionError(f"--max-series must be a number, 1 or more, not {self.max_series}")
        if not 0 <= self.linger <= MAX_LINGER:
            raise OptionError(f"--linger must be a number of seconds from 0 to {MAX_LINGER:g}, not {self.linger}")


class Prometheus(Sink):
    """Serves the latest values over HTTP, for Prometheus and Grafana.

    `train/loss` is `trainwire_metric_train_loss{name="train/loss", run="…", rank="0"}`; if two names lead to the same
    valid one, their labels differ. Values that a resumed run has superseded are rolled back.
    """

    name = "prometheus"
    packages = ("prometheus_client",)
    extra = "prometheus"
    options: Options = Options()
    output: MetricsEndpoint

    def make_output(self, folder: Path, rank: int) -> MetricsEndpoint:  # noqa: ARG002  # it writes no file
        """Return the HTTP server."""
        port = self.options.port and self.options.port + rank
        return MetricsEndpoint(self.options.host, port, Values(rank, self.options.max_series))

    async def restore(self, state: State) -> None:
        """Resume with the latest values."""
        self._values = self.output.values
        self._values.restore(state)

    def state(self) -> State:
        """Return the latest values."""
        return self._values.state()

    async def handle(self, events: Sequence[Event]) -> None:
        """Update the values."""
        self._values.update(self.batch.header.run, events)

    async def settle(self) -> None:
        """Wait until a client has read the last values, if any client has read before."""
        await self.output.wait_for_reader(self.options.linger)


class Values:
    """The latest values of one rank, and their collector for prometheus-client, which calls it on its own threads."""

    def __init__(self, rank: int, max_series: int) -> None:
        self._rank, self._max_series = rank, max_series
        self._lock = threading.Lock()
        self.restore({})

    def restore(self, state: State) -> None:
        """Replace all values with what `state` returned."""
        with self._lock:
            self._run: str = state.get("run", "")
            self._series: dict[Key, float] = {(name, item): value for name, item, value in state.get("series", ())}
            self._omitted: int = state.get("left_out", 0)
            self._facts: dict[str, float] = state.get("facts", {})
            self._state: str = state.get("state", STATES[0])

    def state(self) -> State:
        """Return all values, as a map for JSON."""
        series = [[name, item, value] for (name, item), value in self._series.items()]
        return {
            "run": self._run, "series": series, "left_out": self._omitted, "facts": dict(self._facts),
            "state": self._state,
        }  # fmt: skip

    def update(self, run: str, events: Sequence[Event]) -> None:
        """Update the values from the events of a batch."""
        with self._lock:
            self._run = run
            for event in events:
                self._update(event)

    def _update(self, event: Event) -> None:
        begins_attempt = event.type == "lifecycle" and event.name in ("run/started", "run/resumed")
        step = event.step if begins_attempt else max(event.step, self._facts.get("step", event.step))
        self._facts |= {"step": step, "last_event_timestamp_seconds": event.walltime}
        if event.type in ("scalar", "scalars"):
            for item, value in _items(event.value):
                self._set((event.name, item), float(value))
        elif event.type == "lifecycle":
            if event.name in LAST_EVENTS:
                self._state = event.name.removeprefix("run/")
            elif begins_attempt:
                self._state = STATES[0]
            epoch = event.value.get("epoch")
            if event.name.startswith("epoch/") and type(epoch) in (int, float):
                self._facts["epoch"] = epoch

    def _set(self, key: Key, value: float) -> None:
        # A label may be a megabyte long, and there may be a thousand of them.
        is_short = len(key[1].encode()) <= MAX_NAME_BYTES
        if key in self._series or (is_short and len(self._series) < self._max_series):
            self._series[key] = value
            return
        if not self._omitted:
            logger.warning(
                "prometheus: omitted %.60r, %.60r: there are more than %d series (--max-series), or its label has more "
                "than %d bytes", *key, self._max_series, MAX_NAME_BYTES,
            )  # fmt: skip
        self._omitted += 1

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families of all values; called by prometheus-client."""
        with self._lock:
            series, facts = dict(self._series), dict(self._facts)
            common, state, omitted = [self._run, str(self._rank)], self._state, self._omitted
        yield from _families_of_run(common, facts, state, omitted)
        families: dict[str, GaugeMetricFamily] = {}
        for (name, item), value in series.items():
            family = metric_name(name)
            if family not in families:
                families[family] = _family(family, "The latest value of the metric in the label name.", "name", "item")
            families[family].add_metric([*common, name, item], value)
        yield from families.values()


def metric_name(name: str) -> str:
    """Return the family of an event's name, with "_" for each character that Prometheus does not allow."""
    return PREFIX + re.sub(r"[^a-zA-Z0-9_]", "_", name)


def _items(value: float | Mapping[str, float] | list[float] | tuple[float, ...]) -> Iterable[tuple[str, float]]:
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, (list, tuple)):
        return [(str(number), item) for number, item in enumerate(value)]
    return [("", value)]


def _families_of_run(
    common: list[str], facts: Mapping[str, float], state: str, omitted: int
) -> Iterator[GaugeMetricFamily]:
    for fact, value in facts.items():
        family = _family(f"trainwire_{fact}", f"The latest {fact.replace('_', ' ')} of the run.")
        family.add_metric(common, value)
        yield family
    states = _family("trainwire_run_state", "1 for the current state of the run, 0 for the others.", "state")
    for each in STATES:
        states.add_metric([*common, each], each == state)
    yield states
    family = _family("trainwire_left_out", "Values that were omitted because there are too many series.")
    family.add_metric(common, omitted)
    yield family


def _family(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    from prometheus_client.metrics_core import GaugeMetricFamily

    return GaugeMetricFamily(name, documentation, labels=["run", "rank", *labels])


class MetricsEndpoint(NoOutput):
    """An HTTP server that answers with the latest values."""

    def __init__(self, host: str, port: int, values: Values) -> None:
        self.values = values
        self.port = port
        self._host = host
        self._http: HttpEndpoint | None = None

    @property
    def url(self) -> str:
        """The address of the values; empty unless the server is running."""
        return f"{self._http.url}metrics" if self._http else ""

    async def open(self, length: int) -> None:  # noqa: ARG002  # there is no file
        """Start the server.

        Raises:
            OutputError: the address is in use, or does not belong to this host.
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
        """Whether a client has read the values."""
        return self._http is not None and self._http.was_read

    async def wait_for_reader(self, seconds: float) -> None:
        """Wait until a client has read the current values, if any client has read before."""
        if self._http:
            await self._http.wait_for_reader(seconds)

    async def close(self) -> None:
        """Stop the server."""
        http, self._http = self._http, None
        if http:
            http.close()
