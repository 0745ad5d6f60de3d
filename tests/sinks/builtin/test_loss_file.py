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


def test_each_event_takes_effect_once(tmp_path: Path) -> None:
    """The same bytes are written however often the sink commits and wherever it is killed."""
    check_sink(LossFile, tmp_path)


def test_a_run_without_an_epoch_has_a_header(tmp_path: Path) -> None:
    """Before an epoch has finished, the table consists of its header."""
    assert table(tmp_path, record([scalars(train__loss=1.0)])) == [FIXED]


def test_a_row_has_full_precision(tmp_path: Path) -> None:
    """A row has the epoch, the time of the event in UTC with offset, and numbers as `repr` writes them."""
    metrics: dict[str, object] = {"train/loss": 0.1 + 0.2, "learning_rate": 5e-5, "dev/accuracy": 1}
    rows = table(tmp_path, record([[started(1), finished(1, metrics, bad_epochs=3, complete=True)]]))
    assert rows == [
        [*FIXED, "DEV_ACCURACY"],
        ["1", "2026-01-02T12:01:00.250+00:00", "3", "5e-05", "0.30000000000000004", "1"],
    ]


def test_columns_are_grouped(tmp_path: Path) -> None:
    """Columns of dev, test and train sample are in this order, and within a group in order of appearance."""
    first: dict[str, object] = {"train_sample/loss": 1.0, "test/loss": 2.0, "dev/loss": 3.0, "other/loss": 4.0}
    rows = table(tmp_path, record([[finished(1, first), finished(2, {"dev/micro avg/f1-score": 0.5, "dev/b": 0.0})]]))
    assert rows[0][5:] == ["DEV_LOSS", "DEV_MICRO_AVG_F1-SCORE", "DEV_B", "TEST_LOSS", "TRAIN_SAMPLE_LOSS"]
    assert [row[5:] for row in rows[1:]] == [["3.0", "", "", "2.0", "1.0"], ["", "0.5", "0.0", "", ""]]


def test_scalars_are_enough(tmp_path: Path) -> None:
    """Without metrics in `epoch/finished`, a row has the last scalars since the epoch began."""
    batches = record(
        [scalars(train__loss=9.0, dev__loss=8.0), [started(1)], scalars(train__loss=2.0), scalars(train__loss=1.0)],
    )
    batches = record([*(list(batch.events) for batch in batches), [finished(1)], [finished(2)]])
    rows = table(tmp_path, batches)
    assert [row[0:1] + row[2:] for row in rows[1:]] == [["1", "", "", "1.0"], ["2", "", "", ""]]


def test_metrics_of_the_epoch_take_precedence(tmp_path: Path) -> None:
    """A metric in `epoch/finished` overrides an earlier scalar of the same name; other scalars are kept."""
    events = [*scalars(train__loss=9.0, dev__loss=8.0), finished(1, {"train/loss": 1.0})]
    assert table(tmp_path, record([events]))[1][4:] == ["1.0", "8.0"]


def test_several_learning_rates_share_a_cell(tmp_path: Path) -> None:
    """The learning rates of several parameter groups are joined by commas, in their order."""
    rows = table(tmp_path, record([[finished(1, {"learning_rate": [5e-5, 0.001]})]]))
    assert rows[1][3] == "5e-05,0.001"


def test_an_incomplete_epoch_has_a_row(tmp_path: Path) -> None:
    """An epoch that was cut short has a row as well."""
    rows = table(tmp_path, record([[finished(1, {"train/loss": math.nan}, complete=False)]]))
    assert rows[1][0] == "1"
    assert rows[1][4] == "nan"


@pytest.mark.parametrize("name", ["dev/a\tb", "dev/a\nb", "dev/a\x1b[31mb", "dev/a\u2028b", "dev/a\rb", "dev/ä b"])
def test_no_name_breaks_the_table(tmp_path: Path, name: str) -> None:
    """Whatever a metric is called, the header is one line, and all lines have the same number of cells."""
    rows = table(tmp_path, record([[finished(1, {name: 1.0}), finished(2, {"dev/loss": 2.0})]]))
    assert [len(row) for row in rows] == [7, 7, 7]
    assert rows[0][5].isprintable()
    assert rows[1][5:] == ["1.0", ""]


def test_similar_names_have_separate_columns(tmp_path: Path) -> None:
    """Metrics whose headings would be the same get distinct headings."""
    rows = table(tmp_path, record([[finished(1, {"dev/a b": 1.0, "dev/a_b": 2.0, "dev/A/B": 3.0})]]))
    assert rows[0][5:] == ["DEV_A_B", "DEV_A_B_2", "DEV_A_B_3"]
    assert rows[1][5:] == ["1.0", "2.0", "3.0"]


def test_values_other_than_numbers_are_omitted(tmp_path: Path) -> None:
    """Maps and texts among the metrics lead to no cell and no error."""
    events = [
        Event("dev/each", {"a": 1.0}, "scalars", NOON, 0),
        Event("dev/note", "text", "text", NOON, 0),
        finished(1, {"dev/map": {"a": 1}, "dev/none": None, "dev/ok": 1}),
    ]
    assert table(tmp_path, record([events]))[0][5:] == ["DEV_OK"]


def test_a_changed_table_is_rewritten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the rows are not those committed, the table is rewritten after one warning."""
    batches = record([[finished(1, {"dev/loss": 1.0})], [finished(2, {"dev/loss": 2.0})]])
    expected = table(tmp_path, batches)
    (tmp_path / "loss.tsv").write_text("sorted by a spreadsheet, and longer than before\n" * 20)
    assert table(tmp_path, batches) == expected
    assert caplog.text.count("rewriting it") == 1


def test_a_table_newer_than_the_commit_is_rolled_back(tmp_path: Path) -> None:
    """After a kill between table and cursor, an extra row and column are removed and written again."""
    batches = record([[finished(1, {"test/loss": 1.0})], [finished(2, {"dev/loss": 2.0, "test/loss": 3.0})]])
    cursor = tmp_path / ".trainwire" / "loss-file-rank0.cursor"
    table(tmp_path, batches[:1])
    committed = cursor.read_bytes()
    expected = table(tmp_path, batches)
    cursor.write_bytes(committed)
    assert table(tmp_path, batches[:1]) == [[*FIXED, "TEST_LOSS"], [*expected[1][:5], "1.0"]]
    cursor.write_bytes(committed)
    assert table(tmp_path, batches) == expected
