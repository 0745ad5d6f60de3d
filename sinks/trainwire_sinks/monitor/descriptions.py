"""Describes the state of a view in text, for the terminal and for plain lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from trainwire_sinks.inspect.progress import SinkProgress
from trainwire_sinks.inspect.ranks import describe_lag
from trainwire_sinks.monitor.alerts import AlertLine, open_alerts
from trainwire_sinks.monitor.metrics import most_interesting
from trainwire_sinks.monitor.view import View
from trainwire_sinks.text.format import duration, one_line, plain

MAX_NAME_CHARACTERS: Final = 60
"""Maximum number of characters of a metric's name on a line with others."""

MAX_ALERT_CHARACTERS: Final = 1000
"""Maximum number of characters of an alert."""

NO_SINKS: Final = "none has written to the run's folder"


def describe(view: View, now: float) -> str:
    """Return the state, progress and speed of a run on one line; `now` is a time of the monotonic clock."""
    return " · ".join(_facts(view, now))


def _facts(view: View, now: float) -> Iterator[str]:
    yield one_line(view.state(now))
    if view.error:
        yield one_line(view.error)
    if not view.is_caught_up and view.events:
        yield f"{view.events:,} events"
    yield from (lag for rank in view.ranks if rank.rank == view.rank and (lag := describe_lag(rank)))
    progress = view.progress
    if progress.epoch is not None:
        yield f"epoch {progress.epoch}" + (f"/{progress.max_epochs}" if progress.max_epochs else "")
    if view.run is not None:
        yield f"step {view.step:,}"
    if not view.is_over and (rate := progress.steps_per_second) is not None:
        yield f"{rate:.3g} steps/s" if rate < 1000 else f"{rate:,.0f} steps/s"
    if not view.is_over and (left := progress.seconds_left) is not None:
        yield f"{duration(left)} left"
    if view.resumed:
        yield "resumed" + (f" {view.resumed} times" if view.resumed > 1 else "")
    if view.dropped:
        yield f"{view.dropped:,} values dropped"


def describe_sink(sink: SinkProgress) -> str:
    """Return how far behind a sink is."""
    name = one_line(sink.sink)
    if sink.cursor is None:
        return f"{name}: its cursor cannot be read"
    if sink.ahead:
        return f"{name}: ahead of the record by {sink.ahead:,} events"
    return f"{name}: {sink.behind:,} behind" if sink.behind else f"{name}: up to date"


def describe_sinks(view: View) -> str:
    """Return how far behind each sink is, on one line."""
    return ", ".join(map(describe_sink, view.sinks)) or NO_SINKS


def describe_alert(alert: AlertLine) -> str:
    """Return an alert's severity, rule and message, on one line."""
    return one_line(f"{alert.severity} {alert.rule}: {alert.message}"[:MAX_ALERT_CHARACTERS])


def describe_alerts(view: View) -> str:
    """Return the alerts that have not cleared, the newest first, on one line."""
    return "; ".join(map(describe_alert, reversed(open_alerts(view.alerts)))) or "none"


def describe_metrics(view: View, limit: int) -> str:
    """Return the latest values of at most `limit` metrics, on one line."""
    series = view.metrics.series
    names = most_interesting(series, limit)
    more = len(series) - len(names)
    values = ", ".join(f"{one_line(name)[:MAX_NAME_CHARACTERS]} {plain(series[name].latest)}" for name in names)
    return (values or "no metrics") + (f" and {more:,} more" if more else "")
