from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainwire_protocol.wire import Batch
from trainwire_sinks import Event
from trainwire_sinks.builtin.loss_file import MAX_COLUMNS, LossFile
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
    """Columns of dev, test, others and train sample are in this order, and within a group in order of appearance."""
    first: dict[str, object] = {"train_sample/loss": 1.0, "test/loss": 2.0, "dev/loss": 3.0, "other/loss": 4.0}
    rows = table(tmp_path, record([[finished(1, first), finished(2, {"dev/micro avg/f1-score": 0.5, "dev/b": 0.0})]]))
    assert rows[0][5:] == [
        "DEV_LOSS", "DEV_MICRO_AVG_F1-SCORE", "DEV_B", "TEST_LOSS", "OTHER_LOSS", "TRAIN_SAMPLE_LOSS",
    ]  # fmt: skip
    assert [row[5:] for row in rows[1:]] == [
        ["3.0", "", "", "2.0", "4.0", "1.0"], ["", "0.5", "0.0", "", "", ""],
    ]  # fmt: skip


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


RATES: dict[str, object] = {"train/loss": 1.0, "learning_rate/critic": 0.5, "learning_rate/generator": [0.1, 0.2]}


@pytest.mark.parametrize(
    ("first", "headings", "cells"),
    [
        (RATES, ["LEARNING_RATE_CRITIC", "LEARNING_RATE_GENERATOR", "TRAIN_LOSS"], ["0.5", "0.1,0.2", "1.0"]),
        ({}, ["LEARNING_RATE_CRITIC", "LEARNING_RATE_GENERATOR", "TRAIN_LOSS"], ["", "", ""]),
        (
            {"learning_rate": 0.3},
            ["LEARNING_RATE", "TRAIN_LOSS", "LEARNING_RATE_CRITIC", "LEARNING_RATE_GENERATOR"],
            ["0.3", "", "", ""],
        ),
    ],
)
def test_each_of_several_optimizers_has_a_column(
    tmp_path: Path, first: dict[str, object], headings: list[str], cells: list[str]
) -> None:
    """Their learning rates replace the column of the only one, unless there is one too; also after a crash."""
    batches = record([[finished(1, first)], [finished(2, RATES)]])
    rows = table(tmp_path / "run", batches)
    assert [rows[0][3:], rows[1][3:]] == [headings, cells]
    assert sorted(rows[2][3:]) == sorted(["0.5", "0.1,0.2", "1.0"] + [""] * (len(headings) - 3))
    check_sink(LossFile, tmp_path / "check", batches)


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


def ended(name: str = "run/finished") -> Event:
    return Event(name, {"last_seq": 0, "reason": None}, "lifecycle", NOON + 600, 0)


def test_what_people_log_has_a_column(tmp_path: Path) -> None:
    """In a hand-written loop every scalar has a column, whatever convention its name follows, grouped by its split."""
    values = scalars(
        epoch_time=1.0, Loss__validation=2.0, val_acc=3.0, Accuracy__train=4.0, test__f1=5.0, perplexity=6.0,
        dev_loss=7.0, eval__rougeL=8.0, lr=9.0,
    )  # fmt: skip
    labelled = [Event("error", {"train": 0.5, "valid": 0.25}, "scalars", NOON, 0)]
    rows = table(tmp_path, record([values, labelled, [finished(1)], scalars(val_acc=3.5), [finished(2)], [ended()]]))
    assert rows[0][5:] == [
        "ACCURACY_TRAIN", "ERROR_TRAIN", "DEV_LOSS", "LOSS_VALIDATION", "VAL_ACC", "EVAL_ROUGEL", "ERROR_VALID",
        "TEST_F1", "EPOCH_TIME", "PERPLEXITY", "LR",
    ]  # fmt: skip
    assert rows[1][5:] == ["4.0", "0.5", "7.0", "2.0", "3.0", "8.0", "0.25", "5.0", "1.0", "6.0", "9.0"]
    assert (rows[2][0], [cell for cell in rows[2][5:] if cell]) == ("2", ["3.5"])


def test_train_loss_has_one_column_by_either_name(tmp_path: Path) -> None:
    """`train_loss` fills the column of the training loss, unless `train/loss` is recorded too."""
    assert table(tmp_path / "a", record([scalars(train_loss=1.5), [finished(1)]]))[1][4:] == ["1.5"]
    both = table(tmp_path / "b", record([scalars(train_loss=1.5, train__loss=2.5), [finished(1)]]))
    assert (both[0][4:], both[1][4:]) == (["TRAIN_LOSS", "TRAIN_LOSS_2"], ["2.5", "1.5"])


@pytest.mark.parametrize("name", ["run/finished", "run/failed", "run/interrupted"])
def test_a_loop_without_epochs_has_a_row_of_its_last_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The row has no epoch, and the sink says once how to get one for each epoch."""
    with caplog.at_level("INFO"):
        rows = table(tmp_path, record([scalars(val_loss=3.0), scalars(val_loss=2.0, train__loss=1.0), [ended(name)]]))
    assert rows == [[*FIXED, "VAL_LOSS"], ["", "2026-01-02T12:10:00.000+00:00", "", "", "1.0", "2.0"]]
    assert [message for message in caplog.messages if "loss.tsv" in message] == [
        "loss.tsv has one row, as the run has no epochs; after each, call bus.finish_epoch(number)"
    ]


def test_a_test_after_the_last_epoch_has_a_row(tmp_path: Path) -> None:
    """What a hand-written loop records after its last epoch is in a last row, which is written only for such values."""
    epochs = [scalars(train__loss=1.0), [finished(1)]]
    rows = table(tmp_path / "a", record([*epochs, scalars(test__accuracy=0.9), [ended()]]))
    assert [row[0] for row in rows[1:]] == ["1", ""]
    assert rows[2][4:] == ["", "0.9"]
    assert len(table(tmp_path / "b", record([*epochs, [ended()]]))) == 2


def test_epochs_of_a_model_trainer_keep_to_their_metrics(tmp_path: Path) -> None:
    """Scalars of single steps and those after the last epoch have no column, and `record_epoch`'s have one."""
    steps = scalars(train__batch_loss=1.0, system__cpu=2.0, dev__f1=0.5)
    metrics: dict[str, object] = {"train/loss": 3.0, "gradient_noise": 0.125}
    rows = table(
        tmp_path,
        record([[started(1)], steps, [finished(1, metrics, complete=True)], scalars(test__loss=4.0), [ended()]]),
    )
    assert rows[0][4:] == ["TRAIN_LOSS", "DEV_F1", "GRADIENT_NOISE"]
    assert [row[4:] for row in rows[1:]] == [["3.0", "0.5", "0.125"]]


def test_columns_are_bounded_and_what_is_left_out_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond the limit only metrics of a split get a column; the first one that is left out is named."""
    weights = [scalars(**{f"norm_{number}": float(number) for number in range(150)}), scalars(val_loss=0.5)]
    rows = table(tmp_path, record([*weights, [finished(1)], *weights, [finished(2)], [ended()]]))
    assert len(rows[0]) == len(FIXED) + MAX_COLUMNS + 1
    assert rows[0][5] == "VAL_LOSS"
    assert rows[1][5:] == rows[2][5:] == ["0.5", *(f"{number}.0" for number in range(MAX_COLUMNS))]
    (message,) = [message for message in caplog.messages if "leaves out" in message]
    assert "'norm_100'" in message


def test_metrics_of_finish_epoch_are_added_to_what_was_logged(tmp_path: Path) -> None:
    """A hand-written loop that passes the scores of its evaluation need not repeat what it logged."""
    epoch = [started(1), *scalars(train__accuracy=0.5, dev__f1=0.1), finished(1, {"dev/f1": 0.75})]
    rows = table(tmp_path, record([epoch, [ended()]]))
    assert (rows[0][5:], rows[1][5:]) == (["TRAIN_ACCURACY", "DEV_F1"], ["0.5", "0.75"])
    assert len(rows) == 2


def evaluated(epoch: int, step: int, metrics: object, **fields: object) -> Event:
    value = {"epoch": epoch, "batch": step, "batches": None, "metrics": metrics, **fields}
    return Event("epoch/evaluated", value, "lifecycle", NOON + step, step)


def test_evaluations_within_epochs_have_rows(tmp_path: Path) -> None:
    """Rows have the step then; the epoch's row has the epoch's own metrics, and none of an earlier evaluation."""
    hparams = Event("hparams", {"evaluate_each_k_steps": 2}, "hparams", NOON, 0)
    first = [started(1), *scalars(dev__loss=0.5), evaluated(1, 2, {"train/loss": 0.75, "dev/loss": 0.5}, bad_epochs=0)]
    metrics: dict[str, object] = {"train/loss": 0.7, "dev/loss": 0.4}
    rows = table(
        tmp_path,
        record(
            [
                [hparams, *first, *scalars(dev__loss=0.4), finished(1, metrics, complete=True, bad_epochs=1)],
                [
                    started(2),
                    *scalars(dev__loss=0.3),
                    evaluated(2, 4, {"dev/loss": 0.3}),
                    finished(2, {}, complete=False),
                ],
            ]
        ),
    )
    assert rows[0] == [*FIXED, "STEP", "DEV_LOSS"]
    assert [[row[0], *row[2:]] for row in rows[1:]] == [
        ["1", "0", "", "0.75", "2", "0.5"], ["1", "1", "", "0.7", "0", "0.4"], ["2", "", "", "", "4", "0.3"],
        ["2", "", "", "", "0", ""],
    ]  # fmt: skip


def test_odd_evaluations_are_ignored(tmp_path: Path) -> None:
    """An event without metrics adds a row of what it has."""
    rows = table(tmp_path, record([[evaluated(1, 2, None), evaluated(1, 4, {"dev/loss": "x"})]]))
    assert [row[0] for row in rows] == ["EPOCH", "1", "1"]
