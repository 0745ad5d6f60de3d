"""The terminal app, driven by Textual's pilot, on recorded and live runs."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.recorder import Recorder
from support.run_reader import until

from trainwire_protocol.events import Event
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.wire import Batch
from trainwire_sinks.monitor.reader import RankOverviews, Reader
from trainwire_sinks.testing.check_sink import sample_run

pytest.importorskip("textual_plotext", reason="the terminal monitor needs the extra watch")

from textual.pilot import Pilot

from trainwire_sinks.monitor.app import WatchApp
from trainwire_sinks.monitor.plots import MetricPlot
from trainwire_sinks.monitor.widgets import FilterField, MetricList, Page

SMALL, LARGE = (80, 24), (200, 50)
Main = Coroutine[Any, Any, None]


def run(main: Main) -> None:
    asyncio.run(asyncio.wait_for(main, 50))


def scalars(names: Sequence[str], steps: int) -> list[Event]:
    return [
        Event(name, 1 / (step + place + 1), "scalar", 1.75e9 + step, step)
        for step in range(steps)
        for place, name in enumerate(names)
    ]


def recorded(names: Sequence[str], steps: int = 20) -> list[Batch]:
    """Return a run with these metrics, in its second epoch of four, with one line of log."""
    recorder = Recorder()
    record = {"level": "WARNING", "logger": "a", "message": "[bold]all[/bold] [/ is well"}
    return [
        recorder.happened("run/started"),
        recorder.happened("epoch/started", epoch=2, max_epochs=4, batches=10),
        *(recorder.record(scalars(names, steps)[at : at + 500]) for at in range(0, len(names) * steps, 500)),
        recorder.record([Event("log", record, "log", 1.75e9, steps)]),
        recorder.happened("run/finished", reason="enough"),
    ]


def is_read(reader: Reader) -> bool:
    """Return whether the view has the run, and the alerts if there are any."""
    folder = reader.target.folder
    assert folder
    return reader.view.is_caught_up and bool(reader.view.alerts) == (folder / "alerts.jsonl").exists()


@asynccontextmanager
async def watching(size: tuple[int, int], *folders: Path) -> AsyncIterator[Pilot[None]]:
    """Run the app at a size, and yield it once it has read everything."""
    app = WatchApp([Reader(Target(folder), 0, folder.name) for folder in folders])
    async with app.run_test(size=size) as pilot:
        await until(lambda: all(map(is_read, app.readers)))
        await settled(pilot)
        yield pilot


async def settled(pilot: Pilot[None]) -> None:
    """Wait until the screen no longer changes: the layout depends on what was shown before."""
    before = ""
    for _ in range(20):
        app_of(pilot).show()
        await pilot.pause()
        if (now := screen(pilot)) == before:
            return
        before = now


def app_of(pilot: Pilot[None]) -> WatchApp:
    assert isinstance(pilot.app, WatchApp)
    return pilot.app


def screen(pilot: Pilot[None]) -> str:
    """Return the text on the screen."""
    # `export_screenshot` draws the same, and takes six times as long.
    return "\n".join(strip.text for strip in pilot.app.screen._compositor.render_strips())


def plotted(pilot: Pilot[None]) -> list[str]:
    return [str(plot.border_title).split("  ")[0] for plot in pilot.app.screen.query(MetricPlot)]


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("count", [1, 10, 500])
def test_a_run_is_shown(write_run: Callable[..., Path], size: tuple[int, int], count: int) -> None:
    """State, progress, metrics with their values, plots, log, sinks, alerts and keys are visible at every size."""
    names = [f"train/loss_{number}" for number in range(count)]

    async def main() -> None:
        folder = write_run(recorded(names, steps=10))
        (folder / "alerts.jsonl").write_text('{"id": "1", "rule": "nan", "state": "fired", "message": "it [is] nan"}\n')
        async with watching(size, folder) as pilot:
            shown = screen(pilot)
            for text in (
                "finished: enough",
                "epoch 2/4",
                "sinks",
                "it [is] nan",
                f"{count} metrics",
                "[bold]all[/bold] [/",
            ):
                assert text in shown
            assert "train/loss_0 0.1" in re.sub(" +", " ", shown)
            assert plotted(pilot) == names[: len(plotted(pilot))]
            assert len(plotted(pilot)) == {(1, SMALL): 1, (1, LARGE): 1}.get((count, size), 4 if size == LARGE else 1)
            for plot in pilot.app.screen.query(MetricPlot):
                assert plot.size.width >= 30
                assert plot.size.height >= 6

    run(main())


def test_metrics_are_selected_and_filtered(write_run: Callable[..., Path]) -> None:
    """Keys and clicks plot metrics and remove plots, a text filters the list, and hidden plots are counted."""

    async def main() -> None:
        names = ["train/loss", *(f"metric/{number}" for number in range(499))]
        async with watching(SMALL, write_run(recorded(names, steps=2))) as pilot:
            assert plotted(pilot) == ["train/loss"]
            await pilot.press("space", "end", "space")
            await settled(pilot)
            assert plotted(pilot) == ["metric/498"]
            await pilot.press("home", "space")
            await settled(pilot)
            assert "500 metrics, 1 plot hidden" in screen(pilot)
            await pilot.press("slash", *"metric/42", "enter")
            await settled(pilot)
            assert [name for name, _ in pilot.app.query_one(MetricList).rows] == [
                "metric/42",
                *(f"metric/42{n}" for n in range(10)),
            ]
            await pilot.click(MetricList, offset=(3, 2))
            await settled(pilot)
            assert "metric/420" in (app_of(pilot).chosen or [])
            await pilot.press("escape")
            assert len(pilot.app.query_one(MetricList).rows) == 500
            app_of(pilot).action_filter_metrics()
            assert isinstance(pilot.app.focused, FilterField)

    run(main())


def test_values_are_not_hidden_by_the_scroll_bar(write_run: Callable[..., Path]) -> None:
    """In a list that scrolls, the last digit of each value is visible."""

    async def main() -> None:
        values = {f"metric/{number}": float(f"1.2345678{number:02d}") for number in range(40)}
        batch = Recorder().record([Event(name, value, "scalar", 1.75e9, 1) for name, value in values.items()])
        async with watching(SMALL, write_run([batch])) as pilot:
            metrics = pilot.app.query_one(MetricList)
            lines = [metrics.render_line(y).text.rstrip() for y in range(metrics.size.height)]
            values_shown = [value for _, value in metrics.rows[: len(lines)]]
            assert all(line.endswith(f" {value}") for line, value in zip(lines, values_shown, strict=True))
            assert max(map(len, lines)) <= metrics.scrollable_content_region.width
            assert metrics.rows[0][1] in screen(pilot)

    run(main())


def test_a_selected_metric_is_plotted_at_once(write_run: Callable[..., Path]) -> None:
    """On a small screen the metric selected last is plotted, and the one that it replaces has an open mark."""

    async def main() -> None:
        async with watching(SMALL, write_run(recorded(["train/loss", "dev/loss", "dev/f1"]))) as pilot:
            await pilot.press("down", "space")
            await settled(pilot)
            assert plotted(pilot) == ["dev/loss"]
            lines = [pilot.app.query_one(MetricList).render_line(y).text for y in range(3)]
            assert [line[:10] for line in lines] == ["○ train/lo", "● dev/loss", "  dev/f1  "]
            await pilot.press("up", "space")
            await settled(pilot)
            assert plotted(pilot) == ["train/loss"]
            await pilot.press("space")
            await settled(pilot)
            assert plotted(pilot) == ["dev/loss"]

    run(main())


def test_curves_are_smoothed_and_logarithmic(write_run: Callable[..., Path]) -> None:
    """`s` increases the smoothing and then removes it; `l` toggles a logarithmic axis."""

    async def main() -> None:
        async with watching(SMALL, write_run(recorded(["loss"]))) as pilot:
            for title in ("smoothed 0.6", "smoothed 0.9", "smoothed 0.99", ""):
                await pilot.press("s")
                assert str(pilot.app.query_one(MetricPlot).border_title).endswith(title or "0.05")
            await pilot.press("l")
            assert str(pilot.app.query_one(MetricPlot).border_title).endswith("log")
            assert "┤" in screen(pilot)

    run(main())


def test_the_log_is_filtered(write_run: Callable[..., Path]) -> None:
    """A text and a level select the lines of the log; escape shows all lines again."""

    async def main() -> None:
        async with watching(LARGE, write_run(recorded(["loss"]))) as pilot:
            assert "epoch 2 of 4 started" in screen(pilot)
            await pilot.press("f", *"WELL")
            await settled(pilot)
            assert "is well" in screen(pilot)
            assert "epoch 2 of 4 started" not in screen(pilot)
            await pilot.press("escape", "v", "v")
            await settled(pilot)
            assert "WARNING and above" in screen(pilot)
            assert "epoch 2 of 4 started" not in screen(pilot)
            assert not pilot.app.query_one("#filter").display

    run(main())


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_hostile_names_and_values_are_shown(write_run: Callable[..., Path], size: tuple[int, int]) -> None:
    """Escape sequences, markup, newlines, wide and long names, and extreme values do not break the screen."""
    names = ["\x1b[2J\x1b[31m", "[red]x[/red][", "[/]", "a\nb", "損失" * 80, "x" * 512, "\u202eloss", " ", "]\\["]
    values = [math.nan, math.inf, 1.7e308, -1.7e308, 5e-324, 2**63, 0.0]

    async def main() -> None:
        recorder = Recorder()
        events = [Event(name, value, "scalar", 1.75e9, step) for step, value in enumerate(values) for name in names]
        logged = {
            "level": "[x]",
            "logger": "\x1b[2J",
            "message": "[/]\x1b]0;title\x07 [link=x]",
            "exception": "[/]\n\x1b[",
        }
        batch = recorder.record([*events, Event("log", logged, "log", 1.75e9, 1)])
        async with watching(size, write_run([batch])) as pilot:
            app = app_of(pilot)
            await pilot.press("s", "l")
            for chosen in [names] if size == LARGE else [[name] for name in names]:
                app.chosen = chosen
                app.show()
                await pilot.pause()
                assert screen(pilot)
            await pilot.press("s", "l")
            await settled(pilot)
            assert not set("\x1b\x07\u202e") & set(screen(pilot))
            assert "\\x1b[2J" in screen(pilot)
            await pilot.press("a")
            await settled(pilot)
            assert isinstance(app.screen, Page)

    run(main())


def test_a_resumed_run_is_shown(write_run: Callable[..., Path]) -> None:
    """The plot of a resumed run has no superseded points, and the log marks the position."""

    async def main() -> None:
        async with watching(LARGE, write_run(sample_run())) as pilot:
            assert "resumed" in screen(pilot)
            assert "run resumed from step 4" in screen(pilot)
            series = app_of(pilot).view.metrics.series["train/batch_loss"]
            assert [bucket.mean for bucket in series.buckets()] == [0.5] * 4 + [0.25] * 4 + [0.125] * 4

    run(main())


def test_several_runs_share_a_plot(write_run: Callable[..., Path], tmp_path: Path) -> None:
    """Each run has a line and a curve, and `n` selects the next run's metrics and log."""

    async def main() -> None:
        folders = [write_run(recorded(["loss", name]), tmp_path / name) for name in ("first", "second")]
        async with watching(LARGE, *folders) as pilot:
            assert "▶ first" in screen(pilot)
            assert "  second" in screen(pilot)
            assert [name for name, _ in pilot.app.query_one(MetricList).rows] == ["loss", "first"]
            await pilot.press("n")
            await settled(pilot)
            assert "▶ second" in screen(pilot)
            assert [name for name, _ in pilot.app.query_one(MetricList).rows] == ["loss", "second"]
            curves = pilot.app.query(MetricPlot).first()._curves
            assert [trace.label for trace, _ in curves] == ["first", "second"]

    run(main())


def test_a_run_that_has_not_begun_and_small_sizes(tmp_path: Path) -> None:
    """A run that has not begun is waited for, and sizes too small for a plot cause no error."""

    async def main() -> None:
        app = WatchApp([Reader(Target(tmp_path), 0, "later")])
        async with app.run_test(size=SMALL) as pilot:
            app.show()
            assert "waiting for the run to begin" in screen(pilot)
            for size in ((10, 3), (1, 1), LARGE):
                await pilot.resize_terminal(*size)
                app.show()
                await settled(pilot)

    run(main())


def test_a_straggler_is_shown(write_run: Callable[..., Path]) -> None:
    """A rank that is behind is reported in the line of ranks and in its own line."""
    for rank, pace in ((0, 10), (1, 5)):
        events = [Event("train/loss", 1.0, "scalar", 1.75e9 + step / pace, step) for step in range(100 * pace + 1)]
        recorder = Recorder(rank=rank)
        folder = write_run([recorder.happened("run/started"), recorder.record(events)], is_over=False)

    async def main() -> None:
        ranks = RankOverviews(folder)
        app = WatchApp([Reader(Target(folder), rank, f"rank {rank}", ranks=ranks) for rank in (0, 1)])
        async with app.run_test(size=LARGE) as pilot:
            while not all(view.is_caught_up and view.ranks for view in app.views):
                await asyncio.sleep(0.01)
            await settled(pilot)
            assert "ranks   2: rank 1 500 steps behind" in screen(pilot)
            (line,) = (line for line in screen(pilot).splitlines() if "running" in line and "rank 1 " in line)
            assert "500 steps behind" in line

    run(main())
