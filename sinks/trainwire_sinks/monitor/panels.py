"""Parts of the screen as text; what was logged is never read as markup."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from rich.text import Text

from trainwire_sinks.inspect.ranks import RankOverview, describe_ranks
from trainwire_sinks.monitor.alerts import open_alerts
from trainwire_sinks.monitor.descriptions import (
    describe,
    describe_alert,
    describe_alerts,
    describe_sink,
    describe_sinks,
)
from trainwire_sinks.monitor.log import Line
from trainwire_sinks.monitor.view import View
from trainwire_sinks.text.format import duration, one_line

STYLES: Final = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red", "DEBUG": "dim"}
SEVERITIES: Final = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


def status_text(views: Sequence[View], selected: int, width: int) -> Text:
    """A line for each run, and for the selected one its progress, sinks and alerts."""
    now = time.monotonic()
    lines = []
    for place, view in enumerate(views):
        mark = ("▶ " if place == selected else "  ") if len(views) > 1 else ""
        lines.append(Text.assemble((f"{mark}{one_line(view.label)}  ", "bold"), describe(view, now)))
    view = views[selected]
    if (fraction := view.pace.fraction) is not None:
        lines.append(_bar(fraction, width))
    if len(view.ranks) > 1:
        lines.append(Text(f"ranks   {describe_ranks(view.ranks)}", "yellow" if any(map(_lags, view.ranks)) else ""))
    lines.append(Text(f"sinks   {describe_sinks(view)}"))
    lines.append(Text(f"alerts  {describe_alerts(view)}", style=_severity(view)))
    for line in lines:
        line.truncate(max(1, width), overflow="ellipsis")
    return Text("\n").join(lines)


def log_text(lines: Sequence[Line]) -> Text:
    """Lines of the log: the time of day in UTC, and the text, each cut off at the edge."""
    shown = [Text(f"{line.time[11:19]:<8} {line.text}", style=STYLES.get(line.level, "")) for line in lines]
    return Text("\n", no_wrap=True, overflow="ellipsis").join(shown)


def details(view: View, now: float) -> list[str]:
    """All sinks and alerts of a run; `now` in seconds since the epoch."""
    sinks = [f"  {describe_sink(sink)} ({one_line(str(sink.output))})" for sink in view.sinks]
    alerts = [f"  {_age(now - alert.walltime)}  {describe_alert(alert)}" for alert in reversed(view.alerts)]
    return ["sinks", *(sinks or ["  none has written beside the run"]), "", "alerts", *(alerts or ["  none"])]


def _bar(fraction: float, width: int) -> Text:
    cells = max(1, width - 6)
    done = round(cells * fraction)
    bar = Text.assemble(("━" * done, "green"), ("─" * (cells - done), "dim"))
    return bar.append(f" {fraction:4.0%}")


def _lags(rank: RankOverview) -> bool:
    return bool(rank.behind) or rank.state in ("died", "failed", "unreadable")


def _severity(view: View) -> str:
    found = {alert.severity for alert in open_alerts(list(view.alerts))}
    return next((style for severity, style in SEVERITIES.items() if severity in found), "")


def _age(seconds: float) -> str:
    return f"{duration(max(0.0, seconds)):>12} ago"
