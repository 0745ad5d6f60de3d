"""A script that `trainwire launch` starts: trains with flair, and writes what a plugin of flair's was given."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flair.trainers.plugins import MetricRecord, TensorboardLogger, TrainerPlugin
from support.flair_training import train

from trainwire.integrations.flair import TrainwirePlugin


class Records(TrainerPlugin):
    """Keeps all records."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[object] = []

    @TrainerPlugin.hook
    def metric_recorded(self, record: MetricRecord) -> None:
        value = record.value if isinstance(record.value, (str, list)) else float(record.value)
        self.rows.append([str(record.name), value, record.global_step, record.walltime])


if __name__ == "__main__":
    folder, records = Path(sys.argv[1]), Records()
    tensorboard = TensorboardLogger(log_dir=str(folder / "flair-tensorboard"))
    folder.mkdir(exist_ok=True)
    result = train(folder, TrainwirePlugin(), records, tensorboard, monitor_test=True, max_epochs=3)
    (folder / "records.json").write_text(json.dumps([result["test_score"], records.rows]))
