"""The processes that train together, as far as one process shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_training import train

from trainwire_protocol.errors import OptionError


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "1"}, "invalid environment: RANK is set, but WORLD_SIZE is missing"),
        ({"WORLD_SIZE": "2"}, "invalid environment: RANK is missing"),
        (
            {"RANK": "1", "WORLD_SIZE": "2"},
            "process 1 of 2 cannot connect to the others: .*MASTER_ADDR exp.*; start",
        ),
        (
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"},
            "process 1 of 2 cannot connect to the others: invalid literal",
        ),
    ],
)
def test_an_incomplete_environment_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    """The error names the variable, and nothing is written."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match=message) as failure:
        train(tmp_path / "run", max_epochs=1)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "run").exists()


def test_a_process_of_several_can_train_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `multi_gpu=False` it does not connect to the others."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train(tmp_path, max_epochs=1, multi_gpu=False).steps == 3


def test_arguments_that_distributed_data_parallel_does_not_take_are_refused(tmp_path: Path) -> None:
    """The error lists the arguments; one process ignores valid ones."""
    with pytest.raises(OptionError, match=r"ddp_arguments contains 'find_unused'; the arguments of .* are device_ids"):
        train(tmp_path, ddp_arguments={"find_unused": True})
    assert train(tmp_path, ddp_arguments={"find_unused_parameters": True}, max_epochs=1).steps == 3
