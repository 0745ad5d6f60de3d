"""The words for a view's state that terminal and plain output share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from trainwire_sinks.inspect.progress import Progress
from trainwire_sinks.inspect.ranks import describe_lag
from trainwire_sinks.monitor.alerts import Alert, open_alerts
from trainwire_sinks.monitor.metrics import most_interesting
from trainwire_sinks.monitor.view import View
from trainwire_sinks.text.format import duration, one_line, plain

LONGEST_NAME: Final = 60
"""Characters of a metric's name that stand in a line with others."""


def describe(view: View, now: float) -> str:
    """How a run is, how far and how fast, on one line; `now` is of the monotonic clock."""
    return " · ".join(_facts(view, now))


def _facts(view: View, now: float) -> Iterator[str]:
    state = view.state(now)
    yield one_line(state)
    if view.word:
        yield one_line(view.word)
    if not view.is_caught_up and view.events:
        yield f"{view.events:,} events"
    yield from (lag for rank in view.ranks if rank.rank == view.rank and (lag := describe_lag(rank)))
    pace = view.pace
    if pace.epoch is not None:
        yield f"epoch {pace.epoch}" + (f"/{pace.max_epochs}" if pace.max_epochs else "")
    if view.run is not None:
        yield f"step {view.step:,}"
    if not view.is_over and (rate := pace.steps_per_second) is not None:
        yield f"{rate:.3g} steps/s" if rate < 1000 else f"{rate:,.0f} steps/s"
    if not view.is_over and (left := pace.seconds_left) is not None:
        yield f"{duration(left)} left"
    if view.resumed:
        yield "resumed" + (f" {view.resumed} times" if view.resumed > 1 else "")
    if view.dropped:
        yield f"{view.dropped:,} values dropped"


def describe_sink(sink: Progress) -> str:
    """How far behind a sink is."""
    name = one_line(sink.sink)
    if sink.cursor is None:
        return f"{name}: its cursor cannot be read"
    if sink.ahead:
        return f"{name}: ahead of the record by {sink.ahead:,} events"
    return f"{name}: {sink.behind:,} behind" if sink.behind else f"{name}: up to date"


def describe_sinks(view: View) -> str:
    """How far behind each sink is, on one line."""
    return ", ".join(map(describe_sink, view.sinks)) or "none has written beside the run"


def describe_alert(alert: Alert) -> str:
    """What an alert says."""
    return one_line(f"{alert.severity} {alert.rule}: {alert.message}"[:1000])


def describe_alerts(view: View) -> str:
    """The alerts that have fired and not cleared, the newest first, on one line."""
    unsettled = open_alerts(list(view.alerts))
    return "; ".join(map(describe_alert, reversed(unsettled))) or "none"


def describe_metrics(view: View, limit: int) -> str:
    """The latest values of `limit` metrics, on one line."""
    series = view.metrics.series
    names = most_interesting(series, limit)
    more = len(series) - len(names)
    found = ", ".join(f"{one_line(name)[:LONGEST_NAME]} {plain(series[name].latest)}" for name in names)
    return (found or "no metrics") + (f" and {more:,} more" if more else "")
