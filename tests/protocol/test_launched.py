"""What is taken from the environment of torchrun and Slurm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwire_protocol.environment import Launched
from trainwire_protocol.errors import OptionError
from trainwire_protocol.transport.endpoints import Endpoints, Tcp

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "abc"}
STEP = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "2", "SLURM_JOB_ID": "77"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *STEP, "SLURMD_NODENAME", "TRAINWIRE_BIND", "TRAINWIRE_ADVERTISE"):
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("environment", "launched"),
    [
        ({}, Launched()),
        (TORCHRUN, Launched(5, 8, 1, "abc")),
        (STEP, Launched(3, 4, 2, "77")),
        (TORCHRUN | STEP, Launched(5, 8, 1, "77")),
        # A batch script is one process, whatever the job has asked for.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "77"}, Launched(job="77")),
        ({"RANK": "3"}, Launched()),
    ],
)
def test_a_process_knows_which_one_it_is(environment: dict[str, str], launched: Launched) -> None:
    """torchrun's word counts before that of the Slurm step in which it runs; without either there is one process."""
    assert Launched.from_environment(environment) == launched


@given(st.sampled_from(sorted(TORCHRUN | STEP)), st.text())
def test_an_environment_is_understood_or_refused(name: str, value: str) -> None:
    """A variable that holds anything gives numbers, or an error that names it."""
    try:
        launched = Launched.from_environment(TORCHRUN | {name: value})
    except OptionError as error:
        assert name in str(error)
    else:
        assert launched.rank >= 0


def test_processes_of_one_host_share_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a port in the environment each gets two of its own; one that is given to `open_bus` is taken as it is."""
    set_all(monkeypatch, TRAINWIRE_BIND="tcp://0.0.0.0:5600", TRAINWIRE_ADVERTISE="login:7000", **TORCHRUN)
    shared = Tcp.from_environment()
    assert (shared.bind, shared.advertise) == ("tcp://0.0.0.0:5602", "login:7002")
    assert Tcp.from_environment("tcp://0.0.0.0:5600").bind == "tcp://0.0.0.0:5600"
    monkeypatch.setenv("TRAINWIRE_BIND", "tcp://0.0.0.0:0")
    monkeypatch.delenv("TRAINWIRE_ADVERTISE")
    assert Tcp.from_environment().bind == "tcp://0.0.0.0:0"


def test_slurm_names_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket on all addresses is advertised by the node's name, and one on a certain address by that."""
    monkeypatch.setenv("SLURMD_NODENAME", "node17")
    endpoints = Endpoints.choose(Tcp("tcp://0.0.0.0:0"))
    assert endpoints.advertised("tcp://0.0.0.0:5", "tcp://10.0.0.1:6") == ("tcp://node17:5", "tcp://10.0.0.1:6")
