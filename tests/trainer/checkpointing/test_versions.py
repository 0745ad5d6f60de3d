"""Checkpoints that another version has saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.tiny_training import train

from trainwire import Plugin
from trainwire.checkpointing.checkpoint import list_checkpoints, write_data, write_label
from trainwire_protocol.errors import UsageError


class Counter(Plugin):
    """Has a state."""

    def state_dict(self) -> dict[str, Any]:
        return {"count": 1}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert state["count"] == 1


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the state in the latest checkpoint of a run, and return the checkpoint's folder."""
    checkpoint = list_checkpoints(folder)[0]
    state = checkpoint.read(0)
    change(state)
    write_label(folder, write_data(folder, dataclasses.replace(checkpoint.label), state))
    return checkpoint.folder


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda state: state.pop("matches"), "it lacks matches"),
        (lambda state: (state.pop("bus"), state.pop("precision")), "it lacks bus, precision"),
        (lambda state: state["training"].pop("position"), "it lacks position"),
        (lambda state: state["training"]["position"].pop("exhausted"), "it lacks exhausted"),
        (lambda state: state["training"]["epoch"].update(lap=1), "it has lap"),
        (lambda state: state.update(extra=state.pop("modes")), "it lacks modes and has extra"),
    ],
)
def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path, change: Any, what: str) -> None:
    """The message names the checkpoint and what is different; without `resume` the training starts anew."""
    train(tmp_path, max_epochs=1)
    folder = rewrite(tmp_path, change)
    with pytest.raises(UsageError, match=f"{folder} was saved by another version of Trainwire, .*: {what}"):
        train(tmp_path, max_epochs=2, resume=True)
    assert train(tmp_path, max_epochs=1).steps == 3


def test_a_state_of_another_version_of_a_plugin_is_refused(tmp_path: Path) -> None:
    """The message names the checkpoint, the plugin, and what its state lacks."""
    train(tmp_path, Counter(), max_epochs=1)
    folder = rewrite(tmp_path, lambda state: state["plugins"]["Counter"].pop("count"))
    with pytest.raises(UsageError, match=f"{folder} has a state of the plugin Counter without 'count'"):
        train(tmp_path, Counter(), max_epochs=2, resume=True)
