from pathlib import Path

from epoch_times import EpochTimes, Options

from trainwire_sinks import Event
from trainwire_sinks.testing.check_sink import check_sink, record, run_sink


def finished(epoch: int, seconds: float) -> Event:
    return Event("epoch/finished", {"epoch": epoch, "seconds": seconds}, "lifecycle", walltime=0.0, step=0)


def test_each_epoch_has_a_line(tmp_path: Path) -> None:
    run_sink(EpochTimes, tmp_path, record([[finished(1, 4.5), finished(2, 4.25)]]))
    assert (tmp_path / "epoch-times.txt").read_text() == "epoch 1: 4.5 s\nepoch 2: 4.2 s\n"


def test_short_epochs_are_skipped(tmp_path: Path) -> None:
    run_sink(lambda: EpochTimes(Options(minimum=1.0)), tmp_path, record([[finished(1, 0.5)]]))
    assert (tmp_path / "epoch-times.txt").read_text() == ""


def test_each_event_takes_effect_once(tmp_path: Path) -> None:
    check_sink(EpochTimes, tmp_path)
