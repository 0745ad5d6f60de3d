"""Commands from the terminal app reach a bus once they are confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.run_reader import until

import trainwire
from trainwire_protocol.commands import Command
from trainwire_protocol.subscription.target import Target
from trainwire_sinks.monitor.reader import Reader

pytest.importorskip("textual_plotext", reason="the terminal monitor needs the extra watch")

from textual.pilot import Pilot

from trainwire_sinks.monitor.app import WatchApp
from trainwire_sinks.monitor.widgets import Confirmation, Page

Steps = Callable[[Pilot[None]], Awaitable[None]]


def messages(pilot: Pilot[None]) -> list[str]:
    """Return the notifications of the app."""
    return [notification.message for notification in pilot.app._notifications]


def watch(folder: Path, steps: Steps, attempt: int | None = None) -> None:
    """Perform some steps in an app that watches a run."""

    async def main() -> None:
        app = WatchApp([Reader(Target(folder), 0, "[digits]", attempt=attempt)])
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await until(lambda: app.view.is_caught_up)
            await steps(pilot)

    asyncio.run(asyncio.wait_for(main(), 50))


def test_commands_are_confirmed_and_answered(tmp_path: Path) -> None:
    """Each key asks for confirmation, only `y` sends the command, and the training's answer is shown."""
    received: list[str] = []

    with trainwire.open_bus(tmp_path) as bus:

        def apply_command(command: Command) -> None:
            received.append(command.verb)
            about = {"id": command.id, "verb": command.verb}
            if command.verb == "evaluate":
                bus.lifecycle("command/rejected", **about, reason="[there] is nothing to evaluate")
            else:
                bus.lifecycle("command/applied", **about)

        bus.on_command(apply_command)

        async def steps(pilot: Pilot[None]) -> None:
            for key in ("n", "escape", "x"):
                await pilot.press("S")
                assert isinstance(pilot.app.screen, Confirmation)
                await pilot.press(key, "n")
            assert not received
            for key, verb, outcome in (
                ("C", "checkpoint", "applied"),
                ("E", "evaluate", "[there] is nothing"),
                ("S", "stop", "applied"),
            ):
                await pilot.press(key, "y")
                await until(
                    lambda outcome=outcome, verb=verb: any(verb in text and outcome in text for text in messages(pilot))
                )
            assert received == ["checkpoint", "evaluate", "stop"]

        watch(tmp_path, steps)


def test_a_training_that_takes_no_commands(tmp_path: Path) -> None:
    """A bus without a handler refuses a command, and this is shown."""
    with trainwire.open_bus(tmp_path):

        async def steps(pilot: Pilot[None]) -> None:
            await pilot.press("question_mark")
            assert isinstance(pilot.app.screen, Page)
            await pilot.press("escape", "E", "y")
            await until(lambda: any("accepts no commands" in text for text in messages(pilot)))

        watch(tmp_path, steps)


def test_a_run_that_is_over_takes_no_commands(tmp_path: Path) -> None:
    """If no training is running, this is shown."""
    trainwire.open_bus(tmp_path).close()

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("S", "y")
        await until(lambda: any("no training" in text for text in messages(pilot)))

    watch(tmp_path, steps)


def test_an_earlier_attempt_takes_no_commands(tmp_path: Path) -> None:
    """The training that runs now is not stopped from the view of an earlier attempt, which stays as it was."""
    with trainwire.open_bus(tmp_path) as first:
        first.log({"loss": 1.0}, step=7)
    with trainwire.open_bus(tmp_path) as bus:
        received: list[str] = []
        bus.on_command(lambda command: received.append(command.verb))
        bus.log({"loss": 2.0, "other": 1.0}, step=9)
        assert bus.wait_until_journaled(bus.state_dict(), 10)

        async def steps(pilot: Pilot[None]) -> None:
            await pilot.press("S")
            assert not isinstance(pilot.app.screen, Confirmation)
            await until(lambda: any("watch the run to send commands" in text for text in messages(pilot)))
            view = pilot.app.view  # type: ignore[attr-defined]  # the app is a WatchApp
            assert (view.step, list(view.metrics.series), view.is_over) == (7, ["loss"], True)

        watch(tmp_path, steps, attempt=0)
        assert not received
