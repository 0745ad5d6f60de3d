"""Opening a folder that holds a run: what is superseded, what is said about it, and adding to a run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.run_reader import read_batches, read_events

import trainwire
from trainwire_protocol.errors import OptionError
from trainwire_protocol.journal.attempts import find_end, kept_backwards
from trainwire_protocol.journal.run_folder import list_attempts

KILLED = """
import os, signal, sys
import trainwire

bus = trainwire.open_bus(sys.argv[1])
for step in range(1, 31):
    bus.log({"loss": 1 / step}, step=step)
assert bus.wait_until_journaled(bus.state_dict(), 10)
os.kill(os.getpid(), signal.SIGKILL)
"""


def train(folder: Path, steps: int = 5, **options: object) -> trainwire.EventBus:
    with trainwire.open_bus(folder, **options) as bus:  # type: ignore[arg-type]  # options of several types
        for step in range(1, steps + 1):
            bus.log({"loss": 1 / step}, step=step)
    return bus


def train_and_die(folder: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False, timeout=120)
    assert process.returncode == -signal.SIGKILL


def kept_values(folder: Path) -> list[float]:
    """Return the scalars of the run that are not superseded."""
    batches = list(kept_backwards(list_attempts(folder, 0)))[::-1]
    return [event.value for batch in batches for event in batch.events if event.type == "scalar"]


def test_the_first_start_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new folder, and one whose earlier attempts recorded nothing, has nothing to supersede."""
    train(tmp_path)
    (tmp_path / "other" / "journal" / "rank-0" / "attempt-0").mkdir(parents=True)
    os.utime(tmp_path / "other" / "journal" / "rank-0" / "attempt-0", (0, 0))
    assert train(tmp_path / "other").attempt == 1
    assert not caplog.records


@pytest.mark.parametrize(
    ("ending", "how"),
    [(None, "finished at step 5"), (ValueError("odd"), "failed at step 5"), (KeyboardInterrupt(), "interrupted at")],
)
def test_a_new_start_says_what_it_supersedes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ending: BaseException | None, how: str
) -> None:
    """One warning names the folder, how its last attempt ended, where it stays, and every other choice."""
    with contextlib.suppress(type(ending)), trainwire.open_bus(tmp_path) as bus:
        bus.log({"loss": 1.0}, step=5)
        if ending:
            raise ending
    train(tmp_path)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert str(tmp_path) in message
    for part in (f"attempt 0 {how}", "--attempt 0", "loss.attempt-0.tsv", "append=True", "state=", "another folder"):
        assert part in message


def test_a_new_start_after_a_kill_says_so_on_standard_error(tmp_path: Path) -> None:
    """A script that is killed and started again warns on its terminal, without any configuration of logging."""
    train_and_die(tmp_path)
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert "attempt 0 stopped at step 30 without reporting its end" in process.stderr
    assert len(process.stderr.splitlines()) == 1


def test_a_live_run_that_is_taken_over_is_called_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The message does not say that a training has ended that is still recorded."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"loss": 1.0}, step=3)
        assert bus.wait_until_journaled(bus.state_dict(), 10)
        trainwire.open_bus(tmp_path, take_over=True).close()
    assert "attempt 0 is taken over at step 3" in caplog.text


def test_only_one_rank_says_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of the ranks of a run, the first one warns for all."""
    for _ in range(2):
        for rank in (0, 1):
            train(tmp_path, rank=rank, world_size=2)
    assert len(caplog.records) == 1


def test_a_state_supersedes_a_part_and_a_return_to_an_earlier_start_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Resuming from a state is no warning, unless it hides another start as a whole."""
    caplog.set_level("INFO")
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"loss": 1.0}, step=1)
        state = bus.state_dict()
        bus.log({"loss": 2.0}, step=2)
    train(tmp_path, steps=0, state=state)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "continues from step 1 of attempt 0" in caplog.text
    train(tmp_path)
    train(tmp_path, state=state)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "WARNING"]
    assert "attempt 2 finished at step 5. This training continues attempt 0" in caplog.records[-1].getMessage()


@pytest.mark.parametrize("is_killed", [False, True])
def test_appending_adds_to_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture, is_killed: bool) -> None:
    """`append=True` keeps everything, torn tail or not: it resumes from the last batch's end, at the last step."""
    train_and_die(tmp_path) if is_killed else train(tmp_path, 30)
    if is_killed:
        (segment,) = (tmp_path / "journal" / "rank-0" / "attempt-0").glob("*.journal")
        with segment.open("ab") as file:
            file.write(b"TWJ1\x00\x01")
    before = kept_values(tmp_path)
    with trainwire.open_bus(tmp_path, append=True) as bus:
        bus.log({"test/accuracy": 0.93})
    first = read_events(tmp_path, attempt=1)[0]
    end = read_batches(tmp_path, attempt=0)[-1].cursor
    assert (first.name, first.step) == ("run/resumed", 30)
    assert (first.value["from"], first.value["from_step"]) == ({"attempt": 0, "seq": end.seq}, 30)
    assert kept_values(tmp_path) == [*before, 0.93]
    assert [event.step for event in read_events(tmp_path, attempt=1)] == [30] * 3
    assert not caplog.records


def test_appending_twice_keeps_both(tmp_path: Path) -> None:
    """An attempt that recorded nothing of its own does not break the chain."""
    train(tmp_path, 2)
    for value in (0.5, 0.25):
        with trainwire.open_bus(tmp_path, append=True) as bus:
            bus.log({"test/loss": value})
    (tmp_path / "journal" / "rank-0" / "attempt-3").mkdir()
    os.utime(tmp_path / "journal" / "rank-0" / "attempt-3", (0, 0))
    with trainwire.open_bus(tmp_path, append=True) as bus:
        bus.log({"test/loss": 0.125})
    assert kept_values(tmp_path) == [1.0, 0.5, 0.5, 0.25, 0.125]


def test_appending_to_an_empty_folder_begins_a_run(tmp_path: Path) -> None:
    """Without a run, `append=True` makes no difference."""
    assert train(tmp_path / "new", append=True).attempt == 0
    assert read_events(tmp_path / "new")[0].name == "run/started"


def test_each_rank_appends_to_its_own_end(tmp_path: Path) -> None:
    """Ranks may have recorded different amounts; each one keeps all of its own."""
    for rank, steps in ((0, 3), (1, 7)):
        train(tmp_path, steps, rank=rank, world_size=2)
    for rank in (0, 1):
        train(tmp_path, 0, rank=rank, world_size=2, append=True)
    for rank, steps in ((0, 3), (1, 7)):
        end = find_end(list_attempts(tmp_path, rank)[:1])
        first = read_events(tmp_path, rank=rank, attempt=1)[0]
        assert end is not None
        assert (first.value["from"]["seq"], first.value["from_step"]) == (end.cursor.seq, steps)


@pytest.mark.parametrize("options", [{"append": True, "state": {}}, {"append": "yes"}, {"append": 1}])
def test_append_with_a_state_or_of_another_type_is_refused(tmp_path: Path, options: dict[str, object]) -> None:
    """Nothing is begun."""
    train(tmp_path)
    with pytest.raises(OptionError, match="append"):
        train(tmp_path, **options)
    assert len(list_attempts(tmp_path, 0)) == 1
