"""The environment variables of launchers, and the command lines of sinks."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwire_protocol.environment import LaunchEnvironment, SinkCommand
from trainwire_protocol.errors import OptionError

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "abc"}
STEP = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "2", "SLURM_JOB_ID": "77"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, LaunchEnvironment()),
        (TORCHRUN, LaunchEnvironment(5, 8, 1, "abc", "torchrun")),
        (STEP, LaunchEnvironment(3, 4, 2, "77", "Slurm")),
        (TORCHRUN | STEP, LaunchEnvironment(5, 8, 1, "77", "torchrun")),
        # A batch script is a single process, however many tasks the job has.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "77"}, LaunchEnvironment(job="77")),
        ({"RANK": "3", "WORLD_SIZE": "4"}, LaunchEnvironment(3, 4, 3, None, "torchrun")),
    ],
)
def test_launch_environment(environment: dict[str, str], expected: LaunchEnvironment) -> None:
    """torchrun takes precedence over the Slurm step it runs in; without a launcher there is one process."""
    assert LaunchEnvironment.read(environment) == expected


@given(st.sampled_from(sorted(TORCHRUN | STEP)), st.text())
def test_any_environment_is_read_or_rejected(name: str, value: str) -> None:
    """Whatever a variable contains, the result is consistent, or an error names the variable."""
    try:
        launched = LaunchEnvironment.read(TORCHRUN | {name: value})
    except OptionError as error:
        assert name in str(error)
    else:
        assert 0 <= launched.rank < launched.world_size


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"WORLD_SIZE": "2"}, "RANK is missing"),
        ({"RANK": "3"}, "RANK is set, but WORLD_SIZE is missing"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK must be a number, not '-1'"),
        ({"WORLD_SIZE": "9" * 5000, "RANK": "1"}, "WORLD_SIZE must be a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        (STEP | {"SLURM_LOCALID": ""}, "SLURM_LOCALID must be a number, not ''"),
    ],
)
def test_an_invalid_environment_is_rejected(environment: dict[str, str], problem: str) -> None:
    """The error says which variable is invalid, and why."""
    with pytest.raises(OptionError, match=problem):
        LaunchEnvironment.read(environment)


@given(st.text(min_size=1), st.lists(st.text(), max_size=3))
def test_a_sink_command_is_parsed_as_in_a_shell(name: str, options: list[str]) -> None:
    """A command that is quoted for a shell is parsed into the original arguments."""
    assert SinkCommand.parse(shlex.join([name, *options])) == (name, tuple(options))


@pytest.mark.parametrize("text", ["", "  ", "alerts 'open", "alerts \\"])
def test_an_invalid_sink_command_is_rejected(text: str) -> None:
    """A missing name and an unclosed quote are rejected, with the text in the message."""
    with pytest.raises(OptionError, match="invalid sink"):
        SinkCommand.parse(text)
