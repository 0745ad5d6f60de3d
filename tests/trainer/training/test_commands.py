"""Commands to a training, as `trainwire send` sends them."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.run_reader import read_events, wait_until
from support.tiny_training import make_trainer, points, train

from trainwire import Plugin, Result, hook, open_bus
from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.plugins.linear_schedule import LinearSchedule
from trainwire.training.hooks.payloads import AfterSetup, AfterTrainingBatch, AfterTrainingEpoch, BeforeTrainingEpoch
from trainwire_protocol.commands import Command
from trainwire_protocol.errors import RequestError


class Commands(Plugin):
    """Sends commands at a step."""

    def __init__(self, step: int, *commands: tuple[str, dict[str, Any]]) -> None:
        self.step, self.commands = step, commands
        self.rates: dict[int, float] = {}

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        self.rates[batch.step] = self.run.optimizer.param_groups[0]["lr"]
        if batch.step == self.step:
            for number, (verb, arguments) in enumerate(self.commands):
                self.run.bus.receive_command(str(number), verb, arguments)


def answers(folder: Path) -> list[tuple[str, str]]:
    """Return the verb of each answer, with "applied" or the reason of the rejection."""
    events = [event for event in read_events(folder) if event.name in ("command/applied", "command/rejected")]
    return [(event.value["verb"], event.value.get("reason", "applied")) for event in events]


def test_stop(tmp_path: Path) -> None:
    """The training ends after the step, with the given reason."""
    result = train(tmp_path, Commands(2, ("stop", {"reason": "seen enough"})))
    assert (result.status, result.reason, result.steps) == ("finished", "seen enough", 2)
    received = [event for event in read_events(tmp_path) if event.name == "command/received"]
    assert received[0].value == {"id": "0", "verb": "stop", "arguments": {"reason": "seen enough"}}
    assert answers(tmp_path) == [("stop", "applied")]


def test_checkpoint_evaluate_and_set(tmp_path: Path) -> None:
    """Each is carried out after the step, and published."""
    plugin = Commands(2, ("checkpoint", {}), ("evaluate", {}), ("set", {"learning_rate": 0.025}))
    train(tmp_path, plugin)
    assert [checkpoint.label.step for checkpoint in list_checkpoints(tmp_path)] == [6, 2]
    events = read_events(tmp_path)
    assert next(event.step for event in events if event.name == "evaluation/finished") == 2
    changed = [event.value for event in events if event.name == "learning_rate/changed"]
    assert changed == [{"from": 0.1, "to": 0.025, "reason": "set by a command"}]
    assert (plugin.rates[2], plugin.rates[3]) == (0.1, 0.025)
    assert [reason for _, reason in answers(tmp_path)] == ["applied"] * 3


@pytest.mark.parametrize(
    ("options", "command", "reason"),
    [
        ({}, ("explode", {}), "there is no command 'explode'; the commands are stop"),
        ({"default_plugins": False}, ("checkpoint", {}), "no plugin saves checkpoints"),
        ({"train": points(48)}, ("evaluate", {}), "no split to evaluate"),
        ({}, ("set", {"momentum": 0.5}), "only learning_rate can be set"),
        ({}, ("set", {"learning_rate": -1}), "learning_rate is -1"),
        ({"plugins": [LinearSchedule()]}, ("set", {"learning_rate": 0.1}), "LinearSchedule sets it at each step"),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_rejected(
    tmp_path: Path, options: dict[str, Any], command: tuple[str, dict[str, Any]], reason: str
) -> None:
    """The answer contains the reason, and the training continues."""
    plugins = options.pop("plugins", [])
    assert train(tmp_path, Commands(2, command), *plugins, **options).steps == 6
    [(verb, message)] = answers(tmp_path)
    assert verb == command[0]
    assert reason in message


def test_a_paused_training_waits(tmp_path: Path) -> None:
    """It makes no step until it is resumed, but carries out other requests, and the bus's state is "paused"."""
    trainer, results = make_trainer(), list[Result]()

    @trainer.on("after_training_batch", once=2)
    def pause(batch: AfterTrainingBatch) -> None:
        trainer.control.pause()

    thread = threading.Thread(target=lambda: results.append(train(tmp_path, trainer=trainer)))
    thread.start()
    wait_until(lambda: trainer._run is not None)
    run = trainer.run
    wait_until(lambda: run.bus.state == "paused")
    run.control.send(Command("a", "evaluate"))
    wait_until(lambda: any(event.name == "evaluation/finished" for event in read_events(tmp_path)))
    assert run.state.step == 2
    run.control.send(Command("b", "resume"))
    thread.join(30)
    assert results[0].steps == 6


def test_a_paused_training_can_be_stopped(tmp_path: Path) -> None:
    """`stop` also ends the pause."""
    plugin = Commands(2, ("pause", {}), ("stop", {}))
    assert train(tmp_path, plugin).steps == 2


def test_requests_by_plugins(tmp_path: Path) -> None:
    """`evaluate` during a step evaluates once, after it."""

    class Curious(Plugin):
        @hook(once=1)
        def before_training_epoch(self, epoch: BeforeTrainingEpoch) -> None:
            self.run.control.evaluate()

        @hook(once=1)
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
            self.run.control.set_learning_rate(0.5)

    result = train(tmp_path, Curious())
    evaluated = [event.step for event in read_events(tmp_path) if event.name == "evaluation/finished"]
    assert evaluated == [1, 3, 6, 6]
    assert [epoch["learning_rate"] for epoch in result.history] == [0.1, 0.5]


def send(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainwire_sinks", "send", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_trainwire_send_reaches_a_training(tmp_path: Path) -> None:
    """A command from another process is submitted, applied, and answered by an event."""
    trainer, replies = make_trainer(), list[subprocess.CompletedProcess[str]]()

    @trainer.on("after_setup")
    def send_commands(setup: AfterSetup) -> None:
        replies.append(send(tmp_path, "set", "learning_rate=0.25", "--timeout", 0))
        replies.append(send(tmp_path / "connection-rank0.json", "stop", "--timeout", 0))

    result = train(tmp_path, trainer=trainer)
    assert [(ended.returncode, ended.stdout[: ended.stdout.index(";")]) for ended in replies] == [
        (0, "set: submitted"),
        (0, "stop: submitted"),
    ]
    assert (result.reason, result.steps) == ("stopped by a command", 0)
    assert answers(tmp_path) == [("set", "applied"), ("stop", "applied")]


def test_trainwire_send_waits_for_the_answer(tmp_path: Path) -> None:
    """It prints whether the training applied the command, or why not."""
    trainer, results = make_trainer(), list[Result]()
    thread = threading.Thread(target=lambda: results.append(train(tmp_path, trainer=trainer, max_epochs=10**6)))
    thread.start()
    wait_until(lambda: any(event.name == "epoch/started" for event in read_events(tmp_path)))
    refused = send(tmp_path, "set", "learning_rate=-1")
    stopped = send(tmp_path, "stop")
    thread.join(30)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "the training rejected the command: learning_rate is -1.0" in refused.stderr
    assert (stopped.returncode, stopped.stdout) == (0, "stop: applied\n")
    assert results[0].reason == "stopped by a command"


def test_a_training_that_is_over_cannot_be_reached(tmp_path: Path) -> None:
    """The error says so, or what is wrong with the arguments."""
    train(tmp_path / "run", trainer=make_trainer())
    for arguments, message in (
        ((tmp_path / "run", "explode"), "there is no command 'explode'"),
        ((tmp_path / "run", "set"), "set needs a value"),
        ((tmp_path / "run", "set", "learning_rate"), "is not name=number"),
        ((tmp_path / "run", "stop", "now=1"), "stop takes no values"),
        ((tmp_path / "none", "stop"), "no training is running"),
    ):
        ended = send(*arguments)
        assert ended.returncode == 2
        assert message in ended.stderr


def test_a_bus_refuses_commands_unless_a_handler_is_set(tmp_path: Path) -> None:
    """A hand-written loop receives commands only after it has called `on_command`."""
    with open_bus(tmp_path) as bus:
        with pytest.raises(RequestError, match="accepts no commands"):
            bus.receive_command("a", "stop", {})
        taken: list[Command] = []
        bus.on_command(taken.append)
        bus.receive_command("a", "stop", {})
    assert taken == [Command("a", "stop", {})]
