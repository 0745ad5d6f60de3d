from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainwire_protocol.wire import Batch
from trainwire_sinks import Event
from trainwire_sinks.builtin.loss_file import LossFile
from trainwire_sinks.testing.check_sink import check_sink, record, run_sink

NOON = 1_767_355_200.0
"""2026-01-02 12:00:00 UTC."""
FIXED = ["EPOCH", "TIMESTAMP", "BAD_EPOCHS", "LEARNING_RATE", "TRAIN_LOSS"]


def scalars(**values: float) -> list[Event]:
    return [Event(name.replace("__", "/"), value, "scalar", NOON, 0) for name, value in values.items()]


def started(epoch: int) -> Event:
    return Event("epoch/started", {"epoch": epoch, "max_epochs": 2, "batches": None}, "lifecycle", NOON, 0)


def finished(epoch: int, metrics: dict[str, object] | None = None, **fields: object) -> Event:
    value = {"epoch": epoch, **fields} | ({} if metrics is None else {"metrics": metrics})
    return Event("epoch/finished", value, "lifecycle", NOON + 60 * epoch + 0.25, 0)


def table(folder: Path, batches: Sequence[Batch]) -> list[list[str]]:
    run_sink(LossFile, folder, batches)
    return [line.split("\t") for line in (folder / "loss.tsv").read_text().splitlines()]


def test_each_event_counts_once(tmp_path: Path) -> None:
    """Killed anywhere, committed as often as may be, over a resumption: the same bytes."""
    check_sink(LossFile, tmp_path)


def test_the_header_is_there_without_an_epoch(tmp_path: Path) -> None:
    """A run that has finished no epoch has a table with a header."""
    assert table(tmp_path, record([scalars(train__loss=1.0)])) == [FIXED]


def test_an_epochs_row_is_in_full_precision(tmp_path: Path) -> None:
    """A row holds the epoch, the event's time in UTC with offset, and numbers as Python writes them."""
    metrics: dict[str, object] = {"train/loss": 0.1 + 0.2, "learning_rate": 5e-5, "dev/accuracy": 1}
    rows = table(tmp_path, record([[started(1), finished(1, metrics, bad_epochs=3, complete=True)]]))
    assert rows == [
        [*FIXED, "DEV_ACCURACY"],
        ["1", "2026-01-02T12:01:00.250+00:00", "3", "5e-05", "0.30000000000000004", "1"],
    ]


def test_columns_stand_in_groups(tmp_path: Path) -> None:
    """Columns of dev, test and train sample follow in this order, within a group as they were first seen."""
    first: dict[str, object] = {"train_sample/loss": 1.0, "test/loss": 2.0, "dev/loss": 3.0, "other/loss": 4.0}
    rows = table(tmp_path, record([[finished(1, first), finished(2, {"dev/micro avg/f1-score": 0.5, "dev/b": 0.0})]]))
    assert rows[0][5:] == ["DEV_LOSS", "DEV_MICRO_AVG_F1-SCORE", "DEV_B", "TEST_LOSS", "TRAIN_SAMPLE_LOSS"]
    assert [row[5:] for row in rows[1:]] == [["3.0", "", "", "2.0", "1.0"], ["", "0.5", "0.0", "", ""]]


def test_a_loop_needs_no_more_than_scalars(tmp_path: Path) -> None:
    """Without metrics in `epoch/finished` a row holds the last scalars since the epoch began."""
    batches = record(
        [scalars(train__loss=9.0, dev__loss=8.0), [started(1)], scalars(train__loss=2.0), scalars(train__loss=1.0)],
    )
    batches = record([*(list(batch.events) for batch in batches), [finished(1)], [finished(2)]])
    rows = table(tmp_path, batches)
    assert [row[0:1] + row[2:] for row in rows[1:]] == [["1", "", "", "1.0"], ["2", "", "", ""]]


def test_metrics_of_the_epoch_win(tmp_path: Path) -> None:
    """What `epoch/finished` says of a metric stands above an earlier scalar of it; other scalars stay."""
    events = [*scalars(train__loss=9.0, dev__loss=8.0), finished(1, {"train/loss": 1.0})]
    assert table(tmp_path, record([events]))[1][4:] == ["1.0", "8.0"]


def test_several_learning_rates_share_a_cell(tmp_path: Path) -> None:
    """One rate for each parameter group: they stand with commas between, in their order."""
    rows = table(tmp_path, record([[finished(1, {"learning_rate": [5e-5, 0.001]})]]))
    assert rows[1][3] == "5e-05,0.001"


def test_an_epoch_that_is_cut_short_has_its_row(tmp_path: Path) -> None:
    """Not only complete epochs are rows."""
    rows = table(tmp_path, record([[finished(1, {"train/loss": math.nan}, complete=False)]]))
    assert rows[1][0] == "1"
    assert rows[1][4] == "nan"


@pytest.mark.parametrize("name", ["dev/a\tb", "dev/a\nb", "dev/a\x1b[31mb", "dev/a\u2028b", "dev/a\rb", "dev/ä b"])
def test_no_name_breaks_the_table(tmp_path: Path, name: str) -> None:
    """Whatever a metric is called, the table has one line for the header, and as many cells in each line."""
    rows = table(tmp_path, record([[finished(1, {name: 1.0}), finished(2, {"dev/loss": 2.0})]]))
    assert [len(row) for row in rows] == [7, 7, 7]
    assert rows[0][5].isprintable()
    assert rows[1][5:] == ["1.0", ""]


def test_names_that_look_alike_keep_their_columns(tmp_path: Path) -> None:
    """Two metrics whose headings would be the same have a column each."""
    rows = table(tmp_path, record([[finished(1, {"dev/a b": 1.0, "dev/a_b": 2.0, "dev/A/B": 3.0})]]))
    assert rows[0][5:] == ["DEV_A_B", "DEV_A_B_2", "DEV_A_B_3"]
    assert rows[1][5:] == ["1.0", "2.0", "3.0"]


def test_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    """A map or a text among the metrics gives no cell, and does no harm."""
    events = [
        Event("dev/each", {"a": 1.0}, "scalars", NOON, 0),
        Event("dev/note", "text", "text", NOON, 0),
        finished(1, {"dev/map": {"a": 1}, "dev/none": None, "dev/ok": 1}),
    ]
    assert table(tmp_path, record([events]))[0][5:] == ["DEV_OK"]


def test_a_table_that_somebody_changed_is_written_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows that are not those that were committed: one warning, and the whole table again."""
    batches = record([[finished(1, {"dev/loss": 1.0})], [finished(2, {"dev/loss": 2.0})]])
    expected = table(tmp_path, batches)
    (tmp_path / "loss.tsv").write_text("sorted by a spreadsheet, and longer than before\n" * 20)
    assert table(tmp_path, batches) == expected
    assert caplog.text.count("rewriting it") == 1


def test_a_newer_table_than_was_committed_is_taken_back(tmp_path: Path) -> None:
    """Killed between the table and the cursor, with a row and a column more in the table: they are written again."""
    batches = record([[finished(1, {"test/loss": 1.0})], [finished(2, {"dev/loss": 2.0, "test/loss": 3.0})]])
    cursor = tmp_path / ".trainwire" / "loss-file-rank0.cursor"
    table(tmp_path, batches[:1])
    committed = cursor.read_bytes()
    expected = table(tmp_path, batches)
    cursor.write_bytes(committed)
    assert table(tmp_path, batches[:1]) == [[*FIXED, "TEST_LOSS"], [*expected[1][:5], "1.0"]]
    cursor.write_bytes(committed)
    assert table(tmp_path, batches) == expected
