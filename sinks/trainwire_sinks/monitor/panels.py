"""The text panels of the terminal app; logged text is never interpreted as markup."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from rich.text import Text

from trainwire_sinks.inspect.ranks import RankOverview, describe_ranks
from trainwire_sinks.monitor.alerts import open_alerts
from trainwire_sinks.monitor.descriptions import (
    NO_SINKS,
    describe,
    describe_alert,
    describe_alerts,
    describe_sink,
    describe_sinks,
)
from trainwire_sinks.monitor.log import Line
from trainwire_sinks.monitor.view import View
from trainwire_sinks.text.format import duration, one_line

LEVEL_STYLES: Final = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red", "DEBUG": "dim"}
SEVERITY_STYLES: Final = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


def status_text(views: Sequence[View], selected: int, width: int) -> Text:
    """Return a line for each run, and for the selected one its progress, ranks, sinks and alerts."""
    now = time.monotonic()
    lines = []
    for place, view in enumerate(views):
        mark = ("▶ " if place == selected else "  ") if len(views) > 1 else ""
        lines.append(Text.assemble((f"{mark}{one_line(view.label)}  ", "bold"), describe(view, now)))
    view = views[selected]
    if (fraction := view.progress.fraction) is not None:
        lines.append(_progress_bar(fraction, width))
    if len(view.ranks) > 1:
        style = "yellow" if any(map(_needs_attention, view.ranks)) else ""
        lines.append(Text(f"ranks   {describe_ranks(view.ranks)}", style))
    lines.append(Text(f"sinks   {describe_sinks(view)}"))
    lines.append(Text(f"alerts  {describe_alerts(view)}", style=_worst_severity_style(view)))
    for line in lines:
        line.truncate(max(1, width), overflow="ellipsis")
    return Text("\n").join(lines)


def log_text(lines: Sequence[Line]) -> Text:
    """Return lines of the log, each with its time of day in UTC and truncated at the edge."""
    shown = [Text(f"{line.time[11:19]:<8} {line.text}", style=LEVEL_STYLES.get(line.level, "")) for line in lines]
    return Text("\n", no_wrap=True, overflow="ellipsis").join(shown)


def details(view: View, now: float) -> list[str]:
    """Return lines with all sinks and alerts of a run; `now` is in seconds since the epoch."""
    sinks = [f"  {describe_sink(sink)} ({one_line(str(sink.output))})" for sink in view.sinks]
    alerts = [
        f"  {duration(max(0.0, now - alert.walltime)):>12} ago  {describe_alert(alert)}"
        for alert in reversed(view.alerts)
    ]
    return ["sinks", *(sinks or [f"  {NO_SINKS}"]), "", "alerts", *(alerts or ["  none"])]


def _progress_bar(fraction: float, width: int) -> Text:
    cells = max(1, width - 6)
    done = round(cells * fraction)
    bar = Text.assemble(("━" * done, "green"), ("─" * (cells - done), "dim"))
    return bar.append(f" {fraction:4.0%}")


def _needs_attention(rank: RankOverview) -> bool:
    return bool(rank.behind) or rank.state in ("died", "failed", "unreadable")


def _worst_severity_style(view: View) -> str:
    severities = {alert.severity for alert in open_alerts(view.alerts)}
    return next((style for severity, style in SEVERITY_STYLES.items() if severity in severities), "")
